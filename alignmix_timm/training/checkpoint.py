"""Checkpoints that are complete or absent: written under another name, synced to disk, then renamed."""

import importlib.metadata
import json
import os
import platform
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from ..publishing.file_modes import follow_umask
from .config import TrainConfig
from .data.batches import BatchPlan
from .journal import read_journal

PROGRESS = "progress.json"

_PARTIAL, _DELETED = ".partial", ".deleted"


class Checkpoints:
    """The checkpoints of a run: ``checkpoints/step-00000100``, and the links ``last`` and ``best`` to two of them.

    Args:
        folder: Of the run.
        keep: How many to keep, besides ``best``.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.root, self.keep = folder, folder / "checkpoints", keep
        self.best = folder / "best"

    def choose(self, resume: str) -> Path | None:
        """The checkpoint to go on with: ``auto`` is the newest of this run, ``no`` is none, else the folder itself.

        Raises:
            ValueError: not a checkpoint; or the folder holds a run that would be mixed up with this one.
        """
        latest = self.latest()
        if resume == "auto":
            return latest
        if resume == "no":
            if latest is not None:
                raise ValueError(
                    f"{self.folder} holds a run already, saved at {latest.name}: pass --resume auto to go on with it, "
                    "or another --output."
                )
            return None
        chosen = find(resume)
        if latest is not None and chosen.resolve() != latest.resolve():
            raise ValueError(
                f"{self.folder} holds a run up to {latest.name}: to go on from {chosen}, pass another --output."
            )
        return chosen

    def latest(self) -> Path | None:
        """The newest; None if there is none."""
        found = sorted(self.root.glob("step-*"))
        return found[-1] if found else None

    def save(self, step: int, accelerator: Accelerator, write_more: Callable[[Path], None], best: bool) -> None:
        """Save the state of all processes, and what ``write_more(folder)`` writes; call it in every process.

        Raises:
            OSError: it could not be written. What was there before is intact.
        """
        partial, final = self.root / _PARTIAL, self._of_step(step)
        if accelerator.is_main_process:
            self.sweep()
            partial.mkdir(parents=True)
        accelerator.wait_for_everyone()
        try:
            accelerator.save_state(str(partial))
            if accelerator.is_main_process:
                write_more(partial)
        except Exception as error:  # each format reports a full disk by an error of its own
            if accelerator.is_main_process:
                self.sweep()
            raise OSError(
                f"the checkpoint of step {step} could not be written to {self.root}: {error}. The last good one is "
                f"{self.latest() or 'none'}."
            ) from error
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            follow_umask(partial)
            _sync(partial)
            if final.exists():
                _delete(final)
            partial.rename(final)
            _sync_folder(self.root)
            _link(self.folder / "last", final)
            if best:
                _link(self.best, final)
            self._prune()
        accelerator.wait_for_everyone()

    def hold_best(self, best: dict[str, float], accelerator: Accelerator) -> bool:
        """Whether the checkpoint of the best evaluation is one of this run.

        The link to it is renewed: a run may have been killed before it was made.
        """
        checkpoint = self._of_step(int(best["step"])) if best else None
        if checkpoint is None or not checkpoint.exists():
            return False
        if accelerator.is_main_process:
            _link(self.best, checkpoint)
        return True

    def _of_step(self, step: int) -> Path:
        return self.root / f"step-{step:08d}"

    def sweep(self) -> None:
        """Remove what was being written or deleted when a process was killed."""
        for leftover in (*self.root.glob(f"{_PARTIAL}*"), *self.root.glob(f"{_DELETED}*")):
            shutil.rmtree(leftover)

    def _prune(self) -> None:
        kept = {self.best.resolve()} if self.best.exists() else set()
        for old in sorted(self.root.glob("step-*"))[: -self.keep]:
            if old.resolve() not in kept:
                _delete(old)


def find(path: str) -> Path:
    """The checkpoint at this path, or the last one of the run at this path.

    Raises:
        ValueError: there is none.
    """
    for folder in (Path(path), Path(path) / "last"):
        if (folder / PROGRESS).exists():
            return folder
    raise ValueError(f"{path!r} must be the folder of a checkpoint or of a run, and is neither.")


def _delete(folder: Path) -> None:
    """Rename first: a folder that is half deleted must not look like a checkpoint."""
    doomed = folder.with_name(f"{_DELETED}-{folder.name}")
    folder.rename(doomed)
    shutil.rmtree(doomed)


def _link(link: Path, target: Path) -> None:
    temporary = link.with_name(f".{link.name}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(os.path.relpath(target, link.parent))
    temporary.replace(link)
    _sync_folder(link.parent)


def _sync(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_progress(
    folder: Path,
    config: TrainConfig,
    plan: BatchPlan,
    step: int,
    best: dict[str, float],
    corrupt: Sequence[int | str] = (),
) -> None:
    """Write how far a run is, its best evaluation so far with its step, and the options and versions it has.

    ``corrupt`` are the training rows that could not be read so far.
    """
    write_options(folder, config)
    progress = {"step": step, "best": best, "schedule": plan._asdict(), "corrupt_rows": list(corrupt)}
    (folder / PROGRESS).write_text(json.dumps(progress, indent=2))


def write_options(folder: Path, config: TrainConfig) -> None:
    """Write the options of a run and the versions it uses."""
    config.save(folder / "config.yaml")
    packages = ("torch", "timm", "accelerate", "datasets", "alignmix-timm")
    versions = {name: importlib.metadata.version(name) for name in packages} | {"python": platform.python_version()}
    (folder / "versions.json").write_text(json.dumps(versions, indent=2))


def _linked_best(run: Path) -> dict[str, float]:
    """The evaluation of the checkpoint that a run links to as the best, with its step; empty if it is not known."""
    link, journal = run / "best" / PROGRESS, run / "metrics.jsonl"
    if not link.exists() or not journal.exists():
        return {}
    step = json.loads(link.read_text())["step"]
    found = [record for record in read_journal(journal) if record["kind"] == "eval" and record["step"] == step]
    numbers = (
        {name: value for name, value in found[-1].items() if name not in ("kind", "epoch", "time")} if found else {}
    )
    return numbers


def read_progress(folder: Path) -> dict[str, Any]:
    """What :func:`write_progress` wrote."""
    progress = json.loads((folder / PROGRESS).read_text())
    if not isinstance(progress["best"], dict):  # of a version that noted its score alone
        progress["best"] = _linked_best(folder.resolve().parents[1])
    return {"corrupt_rows": [], **progress, "schedule": BatchPlan(**progress["schedule"])}
