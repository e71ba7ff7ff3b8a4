"""The recipes as a user starts them: real processes, real files."""

import json
import re
import runpy
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import timm
import torch
from accelerate.state import AcceleratorState
from launcher import ENVIRONMENT, ROOT, launcher

from alignmix_timm import choose_point
from alignmix_timm.mixers import MIXERS
from alignmix_timm.points.effect import alignment_effect
from alignmix_timm.training.journal import read_journal

QUICKSTART = ROOT / "recipes" / "quickstart.py"
SHARED = ROOT.parent / "shared" / "data" / "fashion_mnist"


def launch(folder: Path, *args: object, processes: int = 1, expect: int = 0, options: Sequence[str] = ()) -> str:
    """Run ``accelerate launch`` in a folder, and return what it printed."""
    line = [*launcher(processes), *options, str(QUICKSTART), *map(str, args)]
    done = subprocess.run(line, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_quickstart(tmp_path: Path, processes: int) -> None:
    (tmp_path / "quickstart").mkdir()
    (tmp_path / "quickstart" / "alignment.png").write_text("of a former run")
    printed = launch(tmp_path, "--epochs", 6, "--overwrite", processes=processes)
    rows = dict(re.findall(r"^(no mixing|AlignMix) +([\d.]+) ", printed, re.MULTILINE))
    assert min(float(accuracy) for accuracy in rows.values()) > 50  # chance is 10
    assert "img/s" in printed
    assert printed.count("AlignMix mixes") == 1
    assert re.search(
        rf"Plain timm reloads quickstart/model: top-1 {rows['AlignMix']} %, as trained {rows['AlignMix']} %", printed
    )
    folder = tmp_path / "quickstart" / "model"
    net = timm.create_model("test_resnet", num_classes=10, checkpoint_path=str(folder / "model.safetensors"))
    assert json.loads((folder / "config.json").read_text())["label_names"][9] == "Ankle boot"
    assert net.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    assert alignment_effect(net, choose_point(net, (3, 32, 32))) > 1e-2  # also once it has been trained
    for picture in ("mixed_inputs.png", "alignment.png"):
        data = (tmp_path / "quickstart" / picture).read_bytes()
        assert data.startswith(b"\x89PNG")
        assert len(data) > 20_000


@pytest.mark.parametrize(
    ("existing", "says"),
    [
        ("quickstart/model/config.json", "quickstart is not empty: pass --overwrite to replace the results in it, or"),
        ("quickstart", "out must be a folder that can be written"),
    ],
)
def test_quickstart_leaves_what_is_there_alone(
    existing: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / existing).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / existing).write_text("mine")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(QUICKSTART.parent)
    monkeypatch.setattr(sys, "argv", [str(QUICKSTART)])
    with pytest.raises(SystemExit):
        runpy.run_path(str(QUICKSTART), run_name="__main__")
    said = capsys.readouterr().err
    assert said.startswith(f"error: {says}")
    assert len(said.splitlines()) == 1
    assert (tmp_path / existing).read_text() == "mine"


def test_the_sentence_of_an_error_is_the_last_thing_on_the_screen(tmp_path: Path) -> None:
    data = ROOT / "recipes" / "data" / "fashion_mnist"
    printed = launch(tmp_path, "--data", data, "--label-column", "class", expect=1, options=["--quiet"])
    last = printed.strip().splitlines()[-1]
    assert last == "error: label_column must be one of the columns ['image', 'label'], got class."
    assert "Traceback" not in printed


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.exists(), reason="the full Fashion-MNIST is not there")
def test_quickstart_on_another_dataset_and_model(tmp_path: Path) -> None:
    printed = launch(tmp_path, "--data", SHARED, "--model", "test_vit3", "--image-size", 160, "--epochs", 1)
    assert "AlignMix mixes features at blocks" in printed


def recipe(name: str, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    """Run a recipe in this process, with the modules that lie beside it."""
    monkeypatch.syspath_prepend(QUICKSTART.parent)
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    runpy.run_path(str(QUICKSTART.with_name(name)), run_name="__main__")


@pytest.mark.slow
def test_every_mixer_is_timed_or_says_why_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe("benchmark_mixers.py", monkeypatch, "--batch-sizes", 4, 2, "--blocks", 2)
    printed = capsys.readouterr().out
    rows = {row[0]: row[1:] for row in re.findall(r"^\| ([a-z]+) \| (.+) \| (.+) \| (.*) \|$", printed, re.MULTILINE)}
    assert rows.keys() == MIXERS.keys()
    assert rows["none"] == ("1.00", "1.00", "1.00")
    assert [rows[name][2] for name in ("comixup", "alignmix")] == ["2.44", "1.08"]
    for name, (first, second, _) in rows.items():
        failed = re.search(rf"^{name} does not run: ", printed, re.MULTILINE) is not None  # not stylecutmix for cutmix
        assert all((cell == "does not run") == failed for cell in (first, second))
        assert failed or float(first) > 0


@pytest.mark.slow
def test_mixers_are_compared_seed_by_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data, runs = ROOT / "recipes" / "data" / "fashion_mnist", tmp_path / "runs"
    line = f"--data {data} --output {runs} --mixers none comixup --seeds 0 1 --epochs 2 --eval-every 2 --workers 0 "
    line += "--max-train-samples 200 --mixer-args comixup.part=10"
    AcceleratorState._reset_state(reset_partial_state=True)
    recipe("compare_mixers.py", monkeypatch, *line.split())
    table = [row for row in capsys.readouterr().out.splitlines() if re.match(r"\| \w", row)]
    found = {}
    for mixer in ("none", "comixup"):
        journals = [read_journal(runs / f"{mixer}-{seed}" / "metrics.jsonl") for seed in (0, 1)]
        last = [[record for record in records if record["kind"] == "eval"][-1] for records in journals]
        found[mixer] = [100 - record["top1"] for record in last]
    own, none = found["comixup"], found["none"]
    steps = [one - other for one, other in zip(own, none, strict=True)]
    cells = [f"{sum(steps) / 2:.2f} ± {12.7062 * abs(steps[0] - steps[1]) / 2:.2f}"]  # t of one degree of freedom
    assert table[0].startswith("| none | ")
    assert table[1].split(" | ")[4:5] == cells
    assert "mixer_args:\n  comixup.part: 10\n" in (runs / "comixup-0" / "config.yaml").read_text()


@pytest.mark.parametrize("name", ["compare_assignments.py", "compare_finetuning.py"])
def test_the_tables_in_the_readme_are_those_of_the_results(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe(name, monkeypatch, "--table")
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(printed) > 9
    assert set(printed) <= set((ROOT / "recipes" / "README.md").read_text().splitlines())


@pytest.mark.parametrize(
    ("name", "study", "arms", "title"),
    [
        (
            "compare_assignments.py",
            {"head": "pool", "modes": "A", "width": 16, "epochs": 1, "images_per_class": 5},
            ("none", "shuffled"),
            "| arm | seeds | error % | NLL | ECE % | error - none | error - shuffled | error - uniform | NLL - none |",
        ),
        (
            "compare_finetuning.py",
            {"model": "test_resnet"},
            ("no mixing", "AlignMix"),
            "| arm | seeds | error % | NLL | ECE % | error - no mixing | error - AlignMix |",
        ),
    ],
)
def test_arms_are_compared_seed_by_seed(
    name: str,
    study: dict[str, object],
    arms: tuple[str, str],
    title: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # Of the second arm, seed 2 has no partner: it counts for the mean, not for the differences.
    errors = {(arms[0], 0): 10.0, (arms[0], 1): 12.0, (arms[1], 1): 17.0, (arms[1], 0): 13.0, (arms[1], 2): 15.0}
    runs = [
        {**study, "arm": arm, "seed": seed, "error": error, "nll": 2.0, "ece": 3.0}
        for (arm, seed), error in errors.items()
    ]
    results = tmp_path / "results.jsonl"
    elsewhere = [{**run, "batch_size": 7, "error": 99.0} for run in runs]  # another study
    lines = [json.dumps(run) for run in (*runs, *runs, *elsewhere, 3, {"a": 1})]  # each twice, beside others
    results.write_text("\n".join(lines) + '\n{"arm": "cut o')
    recipe(name, monkeypatch, "--table", "--results", results)
    table = [row for row in capsys.readouterr().out.splitlines() if row.startswith("|")]
    measured = "2.000 ± 0.000 | 3.00 ± 0.00"
    base = f"| {arms[0]} | 2 | 11.00 ± 12.71 | {measured} |  | -4.00 ± 12.71 |"  # t = 12.706 of one degree of freedom
    other = f"| {arms[1]} | 3 | 15.00 ± 4.97 | {measured} | 4.00 ± 12.71 |  |"  # t = 4.303 of two
    assert table[0] == title
    assert table[2].startswith(base)
    assert table[3].startswith(other)
    assert len(table) == 8


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--seeds", "-1"), "argument --seeds: must be an integer >= 0, got '-1'"),
        (("--processes", "0"), "argument --processes: must be an integer >= 1, got '0'"),
        (("--epochs", "0"), "argument --epochs: must be an integer >= 1, got '0'"),
        (("--lr", "nan"), "argument --lr: must be > 0, got 'nan'"),
    ],
)
def test_numbers_of_paired_runs_have_ranges(
    arguments: tuple[str, str], sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        recipe("compare_assignments.py", monkeypatch, *arguments)
    assert sentence in capsys.readouterr().err
