"""The tables of the paper: the printed numbers, the runs of their cells, and what is made of the results."""

import functools
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from launcher import ROOT

from alignmix_timm.evaluation.student import estimate
from alignmix_timm.paper import locks, runner
from alignmix_timm.paper.claims import ABSENT, KINDS, OPEN, OPPOSITE, SHOWS, claims
from alignmix_timm.paper.command import main as paper_command
from alignmix_timm.paper.compare import compared, difference
from alignmix_timm.paper.cost import cost_text
from alignmix_timm.paper.figure4 import save_figure4
from alignmix_timm.paper.hours import hours, hours_text
from alignmix_timm.paper.locks import holding, is_dead
from alignmix_timm.paper.methods import METHODS
from alignmix_timm.paper.numbers import gain, paper_tables
from alignmix_timm.paper.report import _verdict, report
from alignmix_timm.paper.results import append_line, read_lines
from alignmix_timm.paper.scales import SCALES, Scale, cell, runs
from alignmix_timm.paper.show import table_text
from alignmix_timm.training.config import TrainConfig

FORK = multiprocessing.get_context("fork")
CONFIGS = ROOT / "recipes" / "configs"
TABLES = paper_tables()


@pytest.mark.parametrize("name", TABLES)
def test_printed_gains_follow_from_the_rows_but_for_the_corrections(name: str) -> None:
    table = TABLES[name]
    assert all(len(numbers) == len(table.columns) for numbers in table.rows.values())
    for index, (column, printed) in enumerate(zip(table.columns, table.printed_gain, strict=False)):
        if printed is not None:
            recomputed = gain(table, index)
            assert (recomputed == printed) == (column.key not in table.corrections), column.key
            assert table.corrections.get(column.key, printed) == recomputed


def test_table8_has_the_numbers_of_table1a_where_it_repeats_a_run() -> None:
    ablation, errors = TABLES["table8"].rows, TABLES["table1a"].rows
    column = [column.key for column in TABLES["table1a"].columns].index("cifar100_r18")
    for row, index, method in (
        ("baseline", 0, "baseline"),
        ("manifold", 0, "manifold"),
        ("stylecutmix", 0, "stylecutmix"),
        ("alignmix x, A, e", 1, "alignmix"),
        ("alignmix_ae x, A, e", 1, "alignmix_ae"),
    ):
        accuracy, error = ablation[row][index], errors[method][column]
        assert accuracy is not None
        assert error is not None
        assert accuracy == pytest.approx(100 - error)


def test_tables_share_their_runs() -> None:
    wide, narrow = (runs("small", TABLES[name], CONFIGS) for name in ("table1a", "table7"))
    of_cifar = [run for run in wide if run["config"]["data"] == "cifar100"]
    for name in ("table2", "table3", "table6", "table7"):
        trained = runs("small", TABLES[name], CONFIGS)
        assert [run for run in trained if run["config"]["data"] == "cifar100"] == of_cifar
    ablation = runs("small", TABLES["table8"], CONFIGS)
    shared = [run for run in narrow if run in ablation]
    assert len({json.dumps(run["config"]) for run in shared}) == 5  # baseline, manifold, AlignMix aligned or not, AE


@pytest.mark.parametrize("scale", SCALES)
def test_the_options_of_every_cell_are_those_of_a_run(scale: Scale) -> None:
    names = set(TrainConfig.__dataclass_fields__)
    found = [run for table in TABLES.values() for run in runs(scale, table, CONFIGS)]
    assert found
    for run in found:
        options = {name: value for name, value in run["config"].items() if name in names}
        assert run["config"].keys() - names <= {"classes", "images_per_class"}
        TrainConfig(**options).check()


def test_the_paper_scale_has_the_settings_of_the_appendix() -> None:
    configs = [run["config"] for run in runs("paper", TABLES["table1a"], CONFIGS)]
    for config in configs:
        assert config["batch_size"] == 128
        assert config["epochs"] == (1200 if config["data"] == "tiny_imagenet" else 2000)
        if "alignmix" in config["mixers"]:
            assert (config["epsilon"], config["num_iters"], config["cost_scale"]) == (0.1, 100, "raw")
        elif config["mixers"] != ["none"]:
            assert config["mixer_args"][f"{config['mixers'][0]}.alpha"] == 2


def test_differences_are_taken_seed_by_seed() -> None:
    found = difference({0: 10.0, 1: 20.0, 2: 30.0, 7: 5.0}, {0: 9.0, 1: 18.0, 2: 27.0, 5: 1.0})
    assert found is not None
    assert (found.mean, found.size) == (2.0, 3)
    assert found.half == pytest.approx(4.3027 / 3**0.5, rel=1e-4)  # Student's t of 2 degrees of freedom
    assert found.sign == 0
    assert difference({0: 1.0}, {1: 1.0}) is None


@pytest.mark.parametrize(("values", "sign"), [([1.0, 1.1, 0.9], 1), ([-1.0, -1.1, -0.9], -1), ([1.0], 0)])
def test_a_sign_needs_an_interval_off_zero(values: list[float], sign: int) -> None:
    found = estimate(values)
    assert found is not None
    assert found.sign == sign


def line(row: str, seed: int, **result: float) -> dict[str, Any]:
    """A finished run of the small scale on CIFAR-100."""
    config = cell("small", TABLES["table7"].columns[0], METHODS[row], CONFIGS)
    about = {"hardware": "a machine", "seconds": 1.0}
    return {"scale": "small", "config": config, "seed": seed, **about, "result": {**result, "images": {"test": 2000}}}


def test_a_table_compares_with_no_mixing_and_with_the_best_other_method() -> None:
    errors = {"baseline": 10.0, "cutmix": 8.0, "manifold": 9.0, "alignmix_unaligned": 1.0, "alignmix": 7.0}
    lines = [line(row, seed, ece=value + seed) for row, value in errors.items() for seed in range(3)]
    cells = {one.method.key: one for one in compared(TABLES["table7"], "small", CONFIGS, lines)["ece"]}
    assert cells["alignmix"].minus_none == (-3.0, 0.0, 3)
    assert (cells["alignmix"].minus_best, cells["alignmix"].best) == ((-1.0, 0.0, 3), "CutMix")
    assert (cells["cutmix"].minus_best, cells["cutmix"].best) == ((-1.0, 0.0, 3), "manifold mixup")
    assert cells["baseline"].minus_none is None
    assert cells["input"].missing == "no run yet"
    assert "AdaIN" in cells["stylemix"].missing
    text = "\n".join(table_text(TABLES["table7"], "small", CONFIGS, lines))
    assert "| AlignMix | 5.78 | 8.00 ± 2.48 (3) | 0.41 | not measured |" in text
    assert "| input mixup | 18.5 | no run yet | 1.42 | no run yet |" in text


def test_a_difference_says_how_many_seeds_both_methods_have() -> None:
    seeds = {"baseline": (0, 1, 2), "cutmix": (1,), "alignmix_unaligned": (2, 3, 4), "alignmix": (0, 1, 2, 3, 4)}
    lines = [line(row, seed, ece=5.0 + seed, accuracy=40.0 + seed) for row, own in seeds.items() for seed in own]
    text = "\n".join(table_text(TABLES["table7"], "small", CONFIGS, lines))
    assert "| difference, seed by seed (seeds of both) |" in text
    assert "| AlignMix | 0.00 ± 0.00 (3) | 0.00 ± 0.00 (3), no mixing |" in text
    assert "| CutMix | 0.00 (1) | 0.00 (1), no mixing |" in text
    assert "| AlignMix, unaligned | 0.00 (1) | 0.00 (1), no mixing |" in text
    ablation = "\n".join(table_text(TABLES["table8"], "small", CONFIGS, lines))
    assert "| 81.92 | 42.00 ± 1.96 (5) | 0.00 ± 0.00 (3) |" in ablation
    assert "AlignMix against unaligned |  | 0.00 ± 0.00 (3) | not told apart |" in report(CONFIGS, lines)


@pytest.mark.parametrize(
    ("name", "scale", "sentence"),
    [
        ("table3", "small", "No run of this scale has measured this yet."),
        ("table3", "paper", "No run of this scale has measured this yet."),
        ("table4", "small", "This scale has no runs for this table."),
    ],
)
def test_a_table_without_lines_says_whether_its_scale_has_runs(name: str, scale: Scale, sentence: str) -> None:
    assert sentence in table_text(TABLES[name], scale, CONFIGS, [])


def test_the_small_scale_names_the_processor_also_beside_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "a GPU")
    run = line("baseline", 0)
    named = {scale: runner.finished({**run, "scale": scale}, result_of)["hardware"] for scale in SCALES}
    assert named == {"small": runner.processor(), "paper": "a GPU"}


def test_two_seeds_decide_nothing_and_are_no_best_method_where_another_has_three() -> None:
    lines = [line("cutmix", seed, ece=8.0) for seed in range(3)]
    lines += [line("manifold", seed, ece=1.0) for seed in range(2)]
    lines += [line(row, seed, ece=7.0) for row in ("baseline", "alignmix") for seed in range(2)]
    cells = {one.method.key: one for one in compared(TABLES["table7"], "small", CONFIGS, lines)["ece"]}
    assert cells["alignmix"].best == "CutMix"
    assert {claim.verdict for claim in claims("small", CONFIGS, lines)} == {ABSENT}


@pytest.mark.parametrize(
    ("shift", "verdict"), [(-2.0, SHOWS), (2.0, OPPOSITE), (0.0, OPEN)], ids=("lower", "higher", "equal")
)
def test_verdicts_and_the_report_follow_from_the_intervals(shift: float, verdict: str) -> None:
    spread = (-0.1, 0.0, 0.1)
    lines = [line("baseline", seed, ece=10.0) for seed in range(3)]
    lines += [line("alignmix", seed, ece=10 + shift + spread[seed]) for seed in range(3)]
    found = {(claim.kind, claim.text): claim for claim in claims("small", CONFIGS, lines)}
    assert not any("OE" in claim.text for claim in found.values())  # which the paper measures by another formula
    claim = found["no mixing", "table7, ECE: AlignMix against no mixing"]
    assert (claim.printed, claim.verdict) == (-4.47, verdict)
    assert found["unaligned", "table7, ECE: AlignMix against unaligned"].verdict == ABSENT
    text = report(CONFIGS, lines)
    counted = {SHOWS: "1 lies on", OPPOSITE: "1 on the other", OPEN: "1 holds zero"}
    assert f"{KINDS['no mixing']}: the paper's claim " in text
    assert counted[verdict] in text
    assert "6 of 140 are done" in text
    assert "none was trained yet" in text
    mixed = [claim._replace(verdict=one) for one in (SHOWS, OPEN)]
    assert "claim shows in some measures. Of 2" in _verdict("no mixing", mixed)
    assert "claim is contradicted in some. Of 2" in _verdict("no mixing", [mixed[1], claim._replace(verdict=OPPOSITE)])
    assert "2 runs are done" in report(
        CONFIGS, [*lines, *({**lines[0], "scale": "paper", "seed": seed} for seed in (0, 1))]
    )


def test_a_line_that_a_kill_left_unfinished_does_no_harm(tmp_path: Path) -> None:
    first, second = line("baseline", 0, error=1.0), line("baseline", 1, error=2.0)
    append_line(tmp_path / "small.jsonl", first)
    with (tmp_path / "small.jsonl").open("a") as file:
        file.write(json.dumps(second)[:40])
    assert read_lines(tmp_path) == [first]
    append_line(tmp_path / "small.jsonl", second)
    assert read_lines(tmp_path) == [first, second]


def result_of(run: dict[str, Any]) -> dict[str, Any]:
    return {"error": float(run["seed"])}


def test_only_the_run_whose_line_is_gone_is_done_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = runs("small", TABLES["table7"], CONFIGS)[:3]
    lines = runner.work(wanted, result_of, tmp_path)
    assert [one["result"] for one in lines] == [{"error": float(run["seed"])} for run in wanted]
    assert "[3/3]" in capsys.readouterr().out
    file = tmp_path / "small.jsonl"
    kept = file.read_text().splitlines()
    file.write_text("\n".join([kept[0], kept[2]]) + "\n")
    done: list[Any] = []
    runner.work(wanted, lambda run: done.append(run) or {"error": 0.0}, tmp_path)
    assert done == [wanted[1]]
    assert not list((tmp_path / "locks").iterdir())


def test_finished_runs_without_the_outliers_asked_for_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = runs("small", TABLES["table1a"], CONFIGS, 1)
    sets: list[list[str]] = [[], ["tiny_crop"], ["tiny_crop", "isun"]]
    of_cifar = 0
    for run in wanted:
        result: dict[str, Any] = {"error": 1.0}
        if run["config"]["data"] == "cifar100":
            result |= {"ood": {name: {} for name in sets[of_cifar % 3]}} if of_cifar % 3 else {}
            of_cifar += 1
        append_line(tmp_path / "small.jsonl", {**run, "seconds": 1.0, "result": result})
    assert of_cifar == 10
    line = ["table1a", "--seeds", "1", "--results", str(tmp_path), "--configs", str(CONFIGS)]
    paper_command([*line, "--outliers", "tiny_crop=a", "isun=b", "--outliers", "lsun_crop=c"])
    said = capsys.readouterr().out.splitlines()[0]
    assert said == (
        "table1a: outliers that finished runs were not measured on: tiny_crop (4 of 10), isun (7 of 10), "
        "lsun_crop (10 of 10). A finished run is not done again: delete its line from "
        f"{tmp_path / 'small.jsonl'}, and this command trains and measures it anew."
    )
    paper_command(line)
    assert "outliers" not in capsys.readouterr().out
    for one in read_lines(tmp_path):
        append_line(tmp_path / "whole" / "small.jsonl", {**one, "result": {"error": 1.0, "ood": {"isun": {}}}})
    paper_command([*line, "--results", str(tmp_path / "whole"), "--outliers", "isun=b"])
    assert "outliers" not in capsys.readouterr().out


def test_the_cost_stands_beside_the_papers_and_names_its_hardware() -> None:
    result = {"baseline": {"milliseconds": 200.0, "ratio": 1.0}, "alignmix": {"milliseconds": 240.0, "ratio": 1.21}}
    config = {"hardware": "a fast machine", "batch_size": 8}
    text = "\n".join(cost_text(CONFIGS, [{"scale": "cost", "config": config, "seed": 0, "result": result}]))
    assert "a fast machine, 8 images: ours, ms" in text
    assert "| AlignMix | 28 | 25.6 | 450 | 1.08 | 240 | 1.21 |" in text
    assert "| StyleMix | 25 |  | 828 | 1.98 | does not run |  |" in text
    assert "| AlignMix/AE | 35 | 45.6 | 688 | 1.65 | not measured |  |" in text


def test_hours_follow_from_the_steps_that_were_measured_on_a_gpu() -> None:
    config = {"model": "resnet50", "size": 224, "batch_size": 100, "hardware": "a GPU"}
    times = {"baseline": {"milliseconds": 50.0, "ratio": 1.0}, "input": {"milliseconds": 60.0, "ratio": 1.2}}
    measured = {"scale": "cost", "config": config, "seed": 0, "result": times}
    run = {"data": "imagenet300", "model": "resnet50", "batch_size": 400, "epochs": 300, "mixers": ["none"]}
    expected = 300 * 1_281_167 / 400 * 4 * 0.05 / 3600
    for mixer, ratio in (("none", 1.0), ("mixup", 1.2), ("cutmix", 1.0)):
        assert hours({"config": run | {"mixers": [mixer]}}, measured) == pytest.approx(expected * ratio)
    autoencoder = run | {"mixers": ["alignmix"], "method": "alignmix_ae"}
    assert hours({"config": autoencoder}, measured) == pytest.approx(expected * 688 / 418)
    times["alignmix_ae"] = {"milliseconds": 100.0, "ratio": 2.0}
    assert hours({"config": autoencoder}, measured) == pytest.approx(expected * 2)
    small = run | {"data": "cifar100", "model": "test_resnet", "batch_size": 100, "epochs": 36}
    assert hours({"config": small}, measured) == pytest.approx(36 * 500 * 0.0115 / 3600)  # 11.5 ms at least
    on_cpu = measured | {"config": config | {"batch_size": 8}}
    assert "No step was measured on a GPU" in hours_text(CONFIGS, [on_cpu])[0]


def test_files_that_hold_no_runs_may_lie_beside_the_results(tmp_path: Path) -> None:
    (tmp_path / "other.jsonl").write_text('{"arm": "none", "seed": 0}\n[1]\n3\n')
    run = {"scale": "small", "config": {"data": "cifar100"}, "seed": 0, "result": {}}
    no_runs = [{**run, "config": {}}, {**run, "result": 1}, {**run, "seed": [0]}, {**run, "scale": None}]
    no_runs += [{key: run[key] for key in run if key != left_out} for left_out in run]
    (tmp_path / "small.jsonl").write_text("\n".join(map(json.dumps, [*no_runs, run])))
    assert read_lines(tmp_path) == [run]
    append_line(tmp_path / "small.jsonl", {**run, "seed": 1}, once=True)
    assert len(read_lines(tmp_path)) == 2


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "small.jsonl").write_bytes(b'{"scale": "\xff"}\n')
    with pytest.raises(ValueError, match=r"small\.jsonl cannot be read as lines of JSON: 'utf-8' codec.*Repair it"):
        read_lines(tmp_path)


@pytest.mark.slow
def test_figure_4_is_drawn_of_all_seeds(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="call table7 without --print-only"):
        save_figure4("small", CONFIGS, [], tmp_path / "figure.png")
    bins = {"examples": [0, 4, 6], "correct": [0, 2, 5], "confidence": [0.0, 2.0, 5.5]}
    lines = [line(row, seed, ece=1.0) for row in ("baseline", "alignmix") for seed in range(2)]
    for one in lines:
        one["result"]["bins"] = bins
    lines.append({**line("cutmix", 0), "result": {}})
    assert save_figure4("small", CONFIGS, lines, tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "file").touch()
    with pytest.raises(
        ValueError, match=r"results must be a folder to which figure4 can be written, got .*/file'.*copy"
    ):
        save_figure4("small", CONFIGS, lines, tmp_path / "file" / "figure.png")


def killed_in_the_second(run: dict[str, Any]) -> dict[str, Any]:
    if run["seed"] == 0 and run["config"]["mixers"] == ["mixup"]:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"error": 1.0}


def test_a_run_that_was_killed_is_done_by_the_next_call_and_no_other_again(tmp_path: Path) -> None:
    wanted = runs("small", TABLES["table7"], CONFIGS)[:4]
    process = FORK.Process(target=runner.work, args=(wanted, killed_in_the_second, tmp_path))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert len(read_lines(tmp_path)) == 1
    assert len(list((tmp_path / "locks").glob("*.lock"))) == 1
    done: list[Any] = []
    runner.work(wanted, lambda run: done.append(run) or {"error": 2.0}, tmp_path)
    assert done == wanted[1:]


def slow(run: dict[str, Any]) -> dict[str, Any]:
    time.sleep(0.02)
    return {"error": float(os.getpid())}


def test_processes_share_the_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "WAIT", 0.05)
    wanted = runs("small", TABLES["table7"], CONFIGS)[:12]
    processes = [FORK.Process(target=runner.work, args=(wanted, slow, tmp_path)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    written = (tmp_path / "small.jsonl").read_text().splitlines()
    assert len(written) == len(wanted)
    assert {json.loads(text)["result"]["error"] for text in written} == {float(process.pid) for process in processes}


def until(ready: Callable[[], bool]) -> None:
    """Wait for what another process does."""
    end = time.monotonic() + 30
    while not ready():
        assert time.monotonic() < end
        time.sleep(0.01)


def told_when_to_end(run: dict[str, Any], folder: Path) -> dict[str, Any]:
    (folder / f"{os.getpid()}-begun").touch()
    until((folder / f"{os.getpid()}-end").exists)
    return {"error": float(os.getpid())}


@pytest.fixture
def stopped(tmp_path: Path) -> Iterator[Callable[[list[Any]], Any]]:
    """Starts processes that are stopped when they have begun with a run, and ends them all."""
    processes = []

    def start(wanted: list[Any]) -> Any:
        train = functools.partial(told_when_to_end, folder=tmp_path)
        process: Any = FORK.Process(target=runner.work, args=(wanted, train, tmp_path))
        process.start()
        processes.append(process)
        until((tmp_path / f"{process.pid}-begun").exists)
        os.kill(process.pid, signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)  # all its threads have stopped
        return process

    yield start
    for process in processes:
        process.kill()


def test_a_process_that_slept_past_its_lock_takes_nothing_from_the_one_that_took_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped: Callable[[list[Any]], Any]
) -> None:
    monkeypatch.setattr(locks, "HEARTBEAT", 0.01)
    wanted = runs("small", TABLES["table7"], CONFIGS)[:1]

    def finish(process: Any) -> None:
        (tmp_path / f"{process.pid}-end").touch()
        process.join(30)
        assert process.exitcode == 0

    sleeper = stopped(wanted)
    (lock,) = (tmp_path / "locks").glob("*.lock")
    os.utime(lock, (0, 0))
    other = stopped(wanted)
    owned = lock.read_text()
    assert json.loads(owned)["process"] == other.pid
    touched = time.time_ns() - 10**11
    os.utime(lock, ns=(touched, touched))
    os.kill(sleeper.pid, signal.SIGCONT)
    time.sleep(0.2)
    finish(sleeper)
    assert (lock.read_text(), lock.stat().st_mtime_ns) == (owned, touched)
    os.kill(other.pid, signal.SIGCONT)
    finish(other)
    assert not list((tmp_path / "locks").iterdir())
    (written,) = (tmp_path / "small.jsonl").read_text().splitlines()
    assert json.loads(written)["result"] == {"error": float(sleeper.pid)}


def test_a_lock_is_held_by_one_and_freed_by_death(tmp_path: Path) -> None:
    lock = tmp_path / "locks" / "one.lock"
    with holding(lock) as first, holding(lock) as second:
        assert (first, second) == (True, False)
    assert not lock.exists()
    process = FORK.Process(target=os._exit, args=(0,))
    process.start()
    process.join()
    owner = {"host": locks.socket.gethostname(), "process": process.pid}
    lock.write_text(json.dumps(owner))
    assert is_dead(lock)
    with holding(lock) as taken:
        assert taken
        assert not is_dead(lock)


def test_a_process_of_another_boot_or_container_is_not_taken_for_a_dead_one(tmp_path: Path) -> None:
    """Though its host has the same name; locks of before, which say no more, are read as they were."""
    lock = tmp_path / "one.lock"
    with holding(lock):
        owner = {**json.loads(lock.read_text()), "process": 2**22 + 1}  # more than Linux gives
    assert owner.keys() - {"host", "process", "token"}
    for another in ({"boot": "another"}, {"process_namespace": "another"}):
        lock.write_text(json.dumps(owner | another))
        assert not is_dead(lock)
        with holding(lock) as taken:
            assert not taken
    for same in (owner, {"host": owner["host"], "process": owner["process"]}):
        lock.write_text(json.dumps(same))
        assert is_dead(lock)


@pytest.mark.parametrize("text", ["", "null", "[1]", '"a"', "{}", '{"host": "a"}', '{"host', "\xff"])
def test_a_lock_that_says_nothing_expires(tmp_path: Path, text: str) -> None:
    lock = tmp_path / "one.lock"
    lock.write_bytes(text.encode("latin-1"))
    assert not is_dead(lock)
    os.utime(lock, (0, 0))
    with holding(lock) as taken:
        assert taken
        lock.write_bytes(text.encode("latin-1"))


@pytest.mark.parametrize(("age", "dead"), [(locks.EXPIRY / 2, False), (2 * locks.EXPIRY, True)])
def test_a_lock_of_another_machine_expires(tmp_path: Path, age: float, dead: bool) -> None:
    lock = tmp_path / "one.lock"
    lock.write_text(json.dumps({"host": "another", "process": 1}))
    os.utime(lock, (time.time() - age,) * 2)
    assert is_dead(lock) == dead
    with holding(lock) as taken:
        assert taken == dead


def test_a_lock_is_touched_while_it_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "HEARTBEAT", 0.01)
    lock = tmp_path / "one.lock"
    with holding(lock):
        os.utime(lock, (0, 0))
        time.sleep(0.1)
        assert time.time() - lock.stat().st_mtime < 60
