"""Several processes on one folder of results, and results that must not be compared with each other."""

import errno
import multiprocessing
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from launcher import ROOT
from torch import nn

from alignmix_timm.evaluation.pixel_model import PixelModel
from alignmix_timm.paper import cost, locks, runner, small
from alignmix_timm.paper.command import main
from alignmix_timm.paper.cost import cost_text, measure_cost
from alignmix_timm.paper.hours import flops
from alignmix_timm.paper.images import Images
from alignmix_timm.paper.locks import holding
from alignmix_timm.paper.measures import measure_all
from alignmix_timm.paper.numbers import paper_tables
from alignmix_timm.paper.results import Line, read_lines
from alignmix_timm.paper.scales import runs
from alignmix_timm.paper.show import table_text
from alignmix_timm.paper.train import Train
from alignmix_timm.training.run_folder import locked

FORK = multiprocessing.get_context("fork")
CONFIGS = ROOT / "recipes" / "configs"
EMBEDDED = ROOT / "recipes" / "data" / "fashion_mnist"


@pytest.fixture(autouse=True)
def _in_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("size", ["WORLD_SIZE", "OMPI_COMM_WORLD_SIZE"])
def test_processes_that_are_to_train_one_run_together_are_refused(
    size: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They would share gradients, each of another run."""
    monkeypatch.setattr(small, "train", lambda *_: pytest.fail("trained"))
    monkeypatch.setenv(size, "2")
    with pytest.raises(SystemExit):
        main(["table7", "--results", str(tmp_path / "results")])
    assert "got 2 that were launched to train one together. Start one for each GPU" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()
    monkeypatch.setenv(size, "1")
    main(["table7", "--print-only"])


def hold(folder: Path) -> None:
    with locked(folder):
        time.sleep(60)


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Any]:
    """A process that holds the folder of a training, as one that sleeps does."""
    process: Any = FORK.Process(target=hold, args=(tmp_path / "held",))
    process.start()
    while not (tmp_path / "held" / "lock").exists() or not (tmp_path / "held" / "lock").read_text():
        time.sleep(0.01)
    yield process
    process.kill()
    process.join()


def test_a_training_that_another_process_holds_is_waited_for_after_all_others(
    held: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runner, "WAIT", 0.01)
    first, *others = wanted = runs("small", paper_tables()["table7"], CONFIGS)[:3]

    def train(run: Line) -> dict[str, Any]:
        if run == first:
            with locked(tmp_path / "held"):
                pass
        return {"error": 1.0}

    waiter = threading.Thread(target=runner.work, args=(wanted, train, tmp_path))
    waiter.start()
    while not (said := capsys.readouterr().out).endswith("trains it.\n"):
        time.sleep(0.05)
    assert f"waiting for {runner.describe(first)}, on which another process works: process {held.pid} trains it" in said
    assert [line["seed"] for line in read_lines(tmp_path)] == [run["seed"] for run in others]
    held.kill()
    waiter.join(30)
    assert len(read_lines(tmp_path)) == 3


def test_a_lock_survives_a_moment_in_which_its_folder_cannot_be_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "HEARTBEAT", 0.01)
    lock, faults, touch = tmp_path / "one.lock", [], os.utime

    def utime(*arguments: Any, **options: Any) -> None:
        if len(faults) < 3:
            faults.append(1)
            raise OSError(errno.ESTALE, "Stale file handle")
        touch(*arguments, **options)

    with holding(lock):
        touch(lock, (0, 0))
        monkeypatch.setattr(locks.os, "utime", utime)
        end = time.monotonic() + 10
        while lock.stat().st_mtime == 0 and time.monotonic() < end:
            time.sleep(0.01)
        assert lock.stat().st_mtime > 0
    assert len(faults) == 3
    assert not lock.exists()


@pytest.mark.parametrize("done", [True, False])
def test_who_measures_steps_is_waited_for(
    done: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured: list[Line] = []
    monkeypatch.setattr(cost, "WAIT", 0.01)
    monkeypatch.setattr(cost, "_measure", lambda _, run: measured.append(run) or {"baseline": {}})
    waiter = threading.Thread(target=measure_cost, args=(CONFIGS, tmp_path))
    with holding(tmp_path / "locks" / f"cost-{cost.platform.node()}.lock"):
        waiter.start()
        waiter.join(0.2)
        assert waiter.is_alive()
        assert not measured
        if done:
            monkeypatch.setattr(cost, "find", lambda *_: {})
    waiter.join(30)
    assert len(measured) == (0 if done else 1)
    assert capsys.readouterr().out.count("waiting for another process, which measures steps here: it holds ") == 1
    measure_cost(CONFIGS, tmp_path)
    assert len(measured) == (0 if done else 1)


def test_steps_that_were_measured_anew_take_the_place_of_the_former() -> None:
    def line(**more: Any) -> Line:
        config = {"hardware": "a GPU", "batch_size": 100, **more}
        result = {"baseline": {"milliseconds": 100.0 + len(more), "ratio": 1.0}}
        return {"scale": "cost", "config": config, "seed": 0, "result": result}

    header, _, baseline, *_ = cost_text(CONFIGS, [line(), line(methods=["baseline"])])
    assert header.count("a GPU") == 1
    assert baseline.endswith("| 101 | 1.00 |")


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_network_whose_logits_are_not_finite_has_diverged(value: float) -> None:
    """Though its weights are finite: such a run is left out, and stops no other."""

    class Overflowing(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.where(images.mean((1, 2, 3))[:, None] > 0, value, images.flatten(1)[:, :4])

    images = Images(
        torch.arange(0, 250, 50, dtype=torch.uint8).view(5, 1, 1, 1).repeat(1, 3, 4, 4), torch.arange(5) % 4
    )
    with pytest.raises(FloatingPointError, match=r"training diverged, the logits of the network are not finite\."):
        measure_all(PixelModel(Overflowing(), (0.5,) * 3, (0.5,) * 3), images, None, attacked=2)


@pytest.mark.parametrize("other", [{"test": 10_000}, {"isun": 7}])
def test_runs_are_not_compared_with_those_on_other_images(
    other: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those of the whole Fashion-MNIST with those of the images of this project."""
    monkeypatch.setattr("alignmix_timm.paper.train.detects", lambda run: True)
    first, second = [
        run for run in runs("small", paper_tables()["table1a"], CONFIGS) if run["config"]["data"] == "fashion_mnist"
    ][:2]
    training = Train({"fashion_mnist": str(EMBEDDED)}, {"isun": str(EMBEDDED)}, None, tmp_path)
    counts = {"test": 2000, "isun": 2000}
    finished = {**first, "result": {"error": 1.0, "images": counts}}
    another = {**first, "scale": "paper", "result": {"error": 1.0, "images": {"test": 3}}}
    training.check([second], [finished, another, {**first, "result": {"error": 1.0}}])
    finished["result"]["images"] = counts | other
    ((name, count),) = other.items()
    said = (
        f"there are 2,000 {name} images, and finished runs, to be compared with these, were measured on {count:,}: take"
    )
    with pytest.raises(ValueError, match=f"(data fashion_mnist|outliers isun)={EMBEDDED} cannot be used: {said}"):
        training.check([second], [finished])


def test_a_row_that_a_scale_has_not_shows_the_papers_numbers() -> None:
    text = "\n".join(table_text(paper_tables()["table8"], "small", CONFIGS, []))
    assert "| alignmix_ae x, A8x8, e | 80.49 | not at this scale | 82.2 | not at this scale |  |" in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + len(paper_tables()["table8"].rows)


def test_work_is_that_of_the_network_that_is_trained() -> None:
    """At 64 pixels the stem has a stride of 2, and all later maps are those of 32 pixels."""
    encoder = {"model": "preact_resnet18", "embedding": "flatten"}
    at_32, at_64 = (flops({**encoder, "img_size": size}) for size in (32, 64))
    assert at_64 == pytest.approx(at_32, rel=0.01)
    assert flops({**encoder, "img_size": 32, "model_args": {"last_stride": 1}}) > 1.5 * at_32
    assert flops({"model": "preact_resnet18", "img_size": 32}) == pytest.approx(2 * 0.5554e9, rel=0.01)  # ResNet-18's


@pytest.mark.skipif(shutil.which("git") is None, reason="there is no git")
def test_the_commit_is_not_that_of_a_project_in_which_the_package_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*arguments: str) -> str:
        line = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
        return subprocess.run(line, check=True, capture_output=True, text=True).stdout.strip()

    file = tmp_path / ".venv" / "alignmix_timm" / "paper" / "runner.py"
    file.parent.mkdir(parents=True)
    file.write_text("")
    git("init")
    git("commit", "--allow-empty", "-m", "Begin")
    monkeypatch.setattr(runner, "__file__", str(file))
    assert runner._commit() == ""
    git("add", ".")
    assert runner._commit() == git("rev-parse", "HEAD")[:12] + "+"
    git("commit", "-m", "Add the package")
    assert runner._commit() == git("rev-parse", "HEAD")[:12]
