"""``python -m alignmix_timm.paper``: what it refuses before it trains, and says of runs that end badly."""

import io
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from batch_probe import write_images
from launcher import ROOT
from PIL import Image

from alignmix_timm.paper import full, runner, small
from alignmix_timm.paper.command import main
from alignmix_timm.paper.locks import holding
from alignmix_timm.paper.numbers import paper_tables
from alignmix_timm.paper.results import Line, append_line, read_lines
from alignmix_timm.paper.scales import SCALES, runs

CONFIGS = ROOT / "recipes" / "configs"
DETECTION = {"ood": {}, "bins": {"examples": [0], "correct": [0], "confidence": [0.0]}}


@pytest.fixture(scope="module")
def cifar100(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder of as many images and classes as the small scale takes."""
    file, folder = io.BytesIO(), tmp_path_factory.mktemp("data") / "cifar100"
    Image.new("RGB", (8, 8)).save(file, "PNG")
    names = [f"class{label}" for label in range(20)]
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=names))

    def rows(count: int) -> datasets.Dataset:
        columns = {"image": [{"bytes": file.getvalue()}] * 20 * count, "label": [*range(20)] * count}
        return datasets.Dataset.from_dict(columns, features=features)

    datasets.DatasetDict(train=rows(50), test=rows(1)).save_to_disk(folder)
    return str(folder)


class Trained(list[Line]):
    """The runs that were trained, in a moment; one of no mixing with seed 0 ends as ``ends`` does."""

    ends: Callable[[], Any] = staticmethod(lambda: None)

    def __call__(self, run: Line, *_: Any) -> dict[str, Any]:
        self.append(run)
        if run["config"]["mixers"] == ["none"] and run["seed"] == 0:
            self.ends()
        return {"error": 1.0, "accuracy": 99.0, "ece": 2.0, **DETECTION}


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Trained:
    found = Trained()
    monkeypatch.setattr(small, "train", found)
    monkeypatch.setattr(full, "train", found)
    return found


@pytest.fixture
def call(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """The exit status, output and last words of a call."""

    def called(*arguments: str) -> tuple[int, str, str]:
        status: Any = 0
        try:
            main(["--results", str(tmp_path / "results"), *arguments])
        except SystemExit as error:
            status = error.code
        return status, *capsys.readouterr()

    return called


@pytest.fixture(autouse=True)
def _in_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--data cifar=/x", "must be one of cifar100, fashion_mnist at the scale small, got 'cifar'. Did you mean"),
        ("--data cifar10=/x", "--data: a name must be one of cifar100, fashion_mnist"),  # for which another stands in
        ("--data fashion_mnist=/x --scale paper", "cub at the scale paper, got 'fashion_mnist'."),
        ("--outliers isun=/x tinyresize=/x", "got 'tinyresize'. Did you mean 'tiny_resize'?"),
        ("--outliers uniform=/x", "lsun_crop, isun, tiny_crop, lsun_resize, tiny_resize at"),  # it is made
        ("--seeds 0", "--seeds: must be an integer >= 1, got '0'"),
        ("--seeds -3", "got '-3'"),
        ("--seeds 1.5", "got '1.5'"),
    ],
)
def test_unknown_names_and_no_seeds_are_refused(call: Any, trained: Trained, line: str, said: str) -> None:
    status, _, error = call("table7", *line.split())
    assert (status, trained) == (2, [])
    assert said in error


@pytest.mark.parametrize("scale", SCALES)
def test_outliers_are_read_before_the_first_run(call: Any, trained: Trained, cifar100: str, scale: str) -> None:
    line = ("table7", "table3", "--data", f"cifar100={cifar100}", "--scale", scale, "--outliers")
    status, _, error = call(*line, "tiny_crop=/nope")
    assert (status, trained) == (1, [])
    assert error.startswith("error: outliers tiny_crop=/nope cannot be used: cannot load")
    assert "Pass --outliers tiny_crop=PATH" in error
    assert "--data" not in error
    assert "must have at least 32 x 32 pixels to be cropped" in call(*line, f"tiny_crop={cifar100}")[2]


@pytest.mark.parametrize("scale", SCALES)
def test_data_are_read_before_the_first_run(call: Any, trained: Trained, scale: str) -> None:
    status, _, error = call("table7", "--scale", scale, "--data", "cifar100=/nope")
    assert (status, trained) == (1, [])
    assert "data cifar100=/nope cannot be used" in error
    assert "Pass --data cifar100=PATH" in error


def test_boxes_are_read_before_the_first_run(call: Any, trained: Trained, tmp_path: Path) -> None:
    write_images(tmp_path / "cub", 1)
    line = ("table7", "table4", "--scale", "paper")
    assert "pass --data cub=PATH" in call(*line)[2]
    line = (*line, "--data", f"cub={tmp_path / 'cub'}")
    assert "boxes must be given for cub" in call(*line)[2]
    assert f"boxes must be a folder of the boxes of cub, got '{tmp_path}'" in call(*line, "--boxes", str(tmp_path))[2]
    assert not trained


def test_too_few_images_of_a_class_are_refused(cifar100: str) -> None:
    assert len(small.rows(cifar100, 20, 50)[0]) == 1000
    with pytest.raises(ValueError, match=r"at least 51 training images of each class, .* has 50 of 'class0'"):
        small.rows(cifar100, 20, 51)


def test_a_table_says_which_of_its_columns_stay_empty(call: Any, trained: Trained, cifar100: str) -> None:
    line = ("--seeds", "1", "--data", f"cifar100={cifar100}")
    status, said, _ = call("table3", *line)
    assert status == 0
    assert said.splitlines()[0] == (
        f"table3: {len(trained)} run(s) will not be measured on lsun_crop, isun, tiny_crop, whose columns stay empty: "
        "pass --outliers lsun_crop=PATH isun=PATH tiny_crop=PATH."
    )
    count = len(trained)
    said = call("table6", *line, "--seeds", "2", "--outliers", f"tiny_resize={cifar100}")[1].splitlines()[0]
    assert said.startswith(f"table6: {len(trained) - count} run(s) will not be measured on lsun_resize, whose columns")
    assert f"outliers that finished runs were not measured on: tiny_resize ({count} of {count})." in said


def test_results_that_cannot_be_written_are_refused_before_the_first_run(
    call: Any, trained: Trained, cifar100: str, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "gone").mkdir()
    (tmp_path / "gone" / "small.jsonl").symlink_to(tmp_path / "nowhere" / "small.jsonl")
    for results in (tmp_path / "file", tmp_path / "file" / "results", tmp_path / "gone"):
        status, _, error = call("table7", "--data", f"cifar100={cifar100}", "--results", str(results))
        assert (status, trained) == (1, [])
        assert f"results must be a folder to which finished runs can be written, got '{results}'" in error
        assert "pass --results another folder" in error


@pytest.mark.parametrize("line", ["report", "table7 --print-only", "figure4 --print-only"])
def test_a_folder_of_results_that_is_none_is_refused_where_nothing_is_trained(
    call: Any, tmp_path: Path, line: str
) -> None:
    (tmp_path / "file").touch()
    for results in (tmp_path / "missing", tmp_path / "file"):
        status, said, error = call(*line.split(), "--results", str(results))
        assert (status, said) == (1, "")
        assert f"results must be a folder of finished runs where nothing is trained, got '{results}'" in error


def test_a_report_that_fails_prints_nothing_of_itself(call: Any, tmp_path: Path) -> None:
    (tmp_path / "small.jsonl").write_bytes(b"\xff\n")
    status, said, error = call("report", "--results", str(tmp_path))
    assert (status, said) == (1, "")
    assert f"{tmp_path / 'small.jsonl'} cannot be read" in error


def diverge() -> None:
    raise FloatingPointError("training diverged.")


def test_a_run_that_diverges_stops_no_other(call: Any, trained: Trained, cifar100: str, tmp_path: Path) -> None:
    """It is tried once by a call, also where two tables have it, and again by the next."""
    line = ("table7", "table8", "--seeds", "1", "--data", f"cifar100={cifar100}")
    trained.ends = diverge
    status, said, error = call(*line)
    name = "small cifar100 preact_resnet18 none, seed 0"
    assert status == 1
    assert f"{name}: no result. training diverged." in said
    assert "| CutMix | 7.6 | 2.00 (1) |" in said
    assert "## Table 8" in said
    assert "stay empty" not in said  # no column is of outliers
    assert error == f"error: 1 run(s) diverged and have no result: {name}. The next call tries them again.\n"
    lines = read_lines(tmp_path / "results")
    assert len(lines) == len(trained) - 1
    assert not list((tmp_path / "results" / "locks").iterdir())
    trained.clear()
    trained.ends = Trained.ends
    assert call(*line)[0] == 0
    assert [runner.describe(run) for run in trained] == [name]


def test_ctrl_c_is_a_sentence_and_leaves_no_lock(call: Any, trained: Trained, cifar100: str, tmp_path: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    trained.ends = lambda: signal.raise_signal(signal.SIGINT)
    try:
        status, _, error = call("table7", "--data", f"cifar100={cifar100}")
    finally:
        signal.signal(signal.SIGINT, before)
    assert (status, error) == (130, "Stopped by Ctrl-C.\n")
    assert not list((tmp_path / "results" / "locks").iterdir())


def test_who_waits_for_another_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], trained: Trained
) -> None:
    monkeypatch.setattr(runner, "WAIT", 0.01)
    wanted = runs("small", paper_tables()["table7"], CONFIGS)[:2]
    lock, other = (tmp_path / "locks" / f"{runner._name(run)}.lock" for run in wanted)
    waiter = threading.Thread(target=runner.work, args=(wanted, trained, tmp_path))
    with holding(lock), holding(other):
        waiter.start()
        waiter.join(0.1)
        assert waiter.is_alive()
        append_line(tmp_path / "small.jsonl", {**wanted[0], "seconds": 1.0, "result": {}})
    waiter.join(30)
    first, *rest = capsys.readouterr().out.splitlines()
    assert first.startswith(f"waiting for {runner.describe(wanted[0])} and 1 more, on which another process works")
    assert str(lock) in first
    assert [line.startswith("[2/2]") for line in rest] == [True]
    assert trained == wanted[1:]
