"""Checkpoints are complete or absent, and runs do not get in each other's way."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate import Accelerator

from alignmix_timm.training.checkpoint import Checkpoints, find, read_progress, write_progress
from alignmix_timm.training.config import TrainConfig
from alignmix_timm.training.data.batches import BatchPlan
from alignmix_timm.training.option_changes import check_changes
from alignmix_timm.training.run_folder import locked

BEST = {"step": 2, "top1": 50.0}


@pytest.fixture
def accelerator() -> Accelerator:
    accelerator = Accelerator(cpu=True)
    accelerator.free_memory()
    accelerator.prepare(torch.nn.Linear(3, 3))
    return accelerator


def write(folder: Path) -> None:
    write_progress(folder, TrainConfig(data="a"), BatchPlan(10, 2, 1, 0), step=3, best=BEST, corrupt=[4, "a.png"])


def steps(checkpoints: Checkpoints) -> list[int]:
    return sorted(int(path.name.removeprefix("step-").removesuffix(".replaced")) for path in checkpoints.root.iterdir())


def test_the_newest_and_the_best_are_kept(tmp_path: Path, accelerator: Accelerator) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in range(1, 6):
        checkpoints.save(step, accelerator, write, best_step=2 if step > 1 else None)
    assert steps(checkpoints) == [2, 4, 5]
    assert (tmp_path / "last").resolve() == checkpoints.latest()
    assert (tmp_path / "best").resolve().name == "step-00000002"
    progress = {"step": 3, "best": BEST, "schedule": BatchPlan(10, 2, 1, 0), "corrupt_rows": [4, "a.png"]}
    assert read_progress(tmp_path / "last") == progress
    saved = json.loads((tmp_path / "last" / "progress.json").read_text())
    assert saved["schedule"] == {"rows": 10, "micro_batch": 2, "micros": 1, "seed": 0}  # as earlier versions have it
    assert (tmp_path / "last" / "config.yaml").exists()


def test_files_have_the_mode_that_the_umask_gives(tmp_path: Path, accelerator: Accelerator) -> None:
    before = os.umask(0o027)
    try:
        Checkpoints(tmp_path, keep=1).save(1, accelerator, write, best_step=None)
    finally:
        os.umask(before)
    files = list((tmp_path / "last").iterdir())
    assert "model.safetensors" in {path.name for path in files}
    assert {path.stat().st_mode & 0o777 for path in files} == {0o640}


def test_a_checkpoint_that_cannot_be_written_leaves_the_last(tmp_path: Path, accelerator: Accelerator) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, accelerator, write, best_step=None)

    def fail(folder: Path) -> None:
        raise OSError("No space left on device")

    with pytest.raises(OSError, match=r"step 2 could not be written .*No space left.*last good one is .*step-00000001"):
        checkpoints.save(2, accelerator, fail, best_step=2)
    assert steps(checkpoints) == [1]
    assert (tmp_path / "last").resolve().name == "step-00000001"
    assert not (tmp_path / "best").exists()


class Killed(BaseException):
    """Stands for SIGKILL: no handler of errors catches it."""


@contextlib.contextmanager
def killed_after(count: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Stop the process after so many changes of the file system; the list names those that were made."""
    done: list[str] = []

    def counted(name: str, change: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **options: Any) -> Any:
            if len(done) == count:
                raise Killed  # nothing more is done by a process that is dead
            done.append(name)
            return change(*args, **options)

        return step

    with monkeypatch.context() as patched:
        for name in ("rename", "replace", "symlink", "unlink", "rmdir", "mkdir", "chmod", "fsync"):
            patched.setattr(os, name, counted(name, getattr(os, name)))
        with contextlib.suppress(Killed):
            yield done


SAVED = {  # what is saved before the kill, and during it: (step, best step)
    "the best of all": ([(1, 1), (2, 1)], (3, 3)),
    "not the best": ([(1, 1), (2, 1)], (3, 1)),
    "the same step again": ([(1, 1), (2, 1)], (2, 1)),
    "the only one again": ([(1, 1)], (1, 1)),
    "the only one again, now the best": ([(1, None)], (1, 1)),
}


@pytest.mark.parametrize("keep", [1, 2])
@pytest.mark.parametrize("case", SAVED)
def test_a_kill_at_any_step_of_the_file_system_loses_neither_the_last_nor_the_best(
    case: str, keep: int, tmp_path: Path, accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accelerator, "save_state", lambda folder: Path(folder, "state").write_text("of all processes"))
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # counted, and slow
    before, during = SAVED[case]

    def save(run: Path, step: int, best: int | None) -> None:
        def write(folder: Path) -> None:
            (folder / "progress.json").write_text(json.dumps({"step": step, "best": best}))

        Checkpoints(run, keep).save(step, accelerator, write, best)

    for count in range(200):
        run = tmp_path / str(count)
        for one in before:
            save(run, *one)
        with killed_after(count, monkeypatch) as done:
            save(run, *during)
        newest = find(str(run))  # also before the run goes on
        saved = json.loads((newest / "progress.json").read_text())
        assert saved["step"] in (before[-1][0], during[0]), done
        assert (newest / "state").exists()
        checkpoints = Checkpoints(run, keep)
        assert checkpoints.latest() == newest
        checkpoints.link(saved["best"])
        assert (run / "last").resolve() == newest
        if saved["best"]:
            assert json.loads((run / "best" / "progress.json").read_text())["step"] == saved["best"], done
        for step in (4, 5):
            save(run, step, saved["best"])
        kept = {5, 4} if keep == 2 else {5}
        assert steps(checkpoints) == sorted(kept | ({saved["best"]} if saved["best"] else set()))
        if len(done) < count:
            break
    assert {"rename", "replace", "symlink", "fsync", "unlink"} <= set(done)
    assert len(done) == count - 1  # all were tried


def test_leftovers_of_a_kill_are_no_checkpoints(tmp_path: Path, accelerator: Accelerator) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    for leftover in (".partial", ".deleted-step-00000009"):
        (checkpoints.root / leftover).mkdir(parents=True)
    assert checkpoints.latest() is None
    checkpoints.save(1, accelerator, write, best_step=None)
    assert steps(checkpoints) == [1]


def test_which_checkpoint_to_go_on_with(tmp_path: Path, accelerator: Accelerator) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    assert checkpoints.choose("auto") is None
    assert checkpoints.choose("no") is None
    checkpoints.save(7, accelerator, write, best_step=None)
    assert checkpoints.choose("auto") == checkpoints.root / "step-00000007"
    assert checkpoints.choose(str(tmp_path / "last")) == tmp_path / "last"
    assert checkpoints.choose(str(tmp_path)) == checkpoints.root / "step-00000007"
    with pytest.raises(ValueError, match="holds a run already, saved at step-00000007: pass --resume auto"):
        checkpoints.choose("no")
    with pytest.raises(ValueError, match="'latest' must be the folder of a checkpoint or of a run, and is neither"):
        checkpoints.choose("latest")


HOLD = "import sys, time; from pathlib import Path; from alignmix_timm.training.run_folder import locked\n"
HOLD += "with locked(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(60)"


def test_a_run_is_held_by_one_process_until_it_ends(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(ValueError, match=f"is held by process {holder.pid}: wait for it"), locked(tmp_path):
        pass
    holder.kill()
    holder.wait()
    with locked(tmp_path):
        assert (tmp_path / "lock").read_text() == str(os.getpid())


def test_options_of_the_model_and_the_optimizer_stay(tmp_path: Path) -> None:
    saved = TrainConfig(data="a", model_args={"width": 4}, embedding="flatten")
    saved.save(tmp_path / "config.yaml")
    check_changes(replace(saved, epochs=3, output="elsewhere"), tmp_path)
    wider = replace(saved, model_args={"width": 8})
    for other in (wider, replace(wider, eval_only="here"), replace(wider, opt="adamw")):
        with pytest.raises(ValueError, match=r"model_args {'width': 4}, got {'width': 8}"):
            check_changes(other, tmp_path)
    with pytest.raises(ValueError, match="opt 'sgd', got 'adamw'"):
        check_changes(replace(saved, opt="adamw"), tmp_path)
    check_changes(replace(saved, opt="adamw", eval_only="here"), tmp_path)


def test_a_run_from_before_an_option_existed_has_its_default(tmp_path: Path) -> None:
    saved = asdict(TrainConfig(data="a"))
    del saved["embedding"], saved["method"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(saved))
    check_changes(TrainConfig(data="a"), tmp_path)
    with pytest.raises(ValueError, match="embedding 'none', got 'tensor'"):
        check_changes(TrainConfig(data="a", embedding="tensor"), tmp_path)


def test_the_best_of_an_older_run_is_that_which_it_links_to(tmp_path: Path) -> None:
    """Older progress holds the score alone: the step is that of the link, the rest stands in the metrics."""
    run = tmp_path / "run"
    for step in (4, 8):
        folder = run / "checkpoints" / f"step-{step:08d}"
        folder.mkdir(parents=True)
        old = {"step": step, "best": 60.0, "schedule": {"rows": 64, "micro_batch": 8, "micros": 1, "seed": 0}}
        (folder / "progress.json").write_text(json.dumps(old))
    assert read_progress(folder)["best"] == {}
    (run / "best").symlink_to("checkpoints/step-00000004")
    records = [{"kind": "eval", "step": step, "epoch": 1.0, "top1": 100.0 - 10 * step, "time": 1.0} for step in (4, 8)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert read_progress(folder)["best"] == {"step": 4, "top1": 60.0}
