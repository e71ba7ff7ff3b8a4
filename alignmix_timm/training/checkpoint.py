"""Checkpoints that are complete or absent: written under another name, synced to disk, then renamed."""

import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from ..publishing.file_modes import follow_umask
from ..publishing.provenance import versions
from .config import TrainConfig
from .data.batches import BatchPlan
from .durable import DELETED, delete_folder, replace_link, sync_folder, sync_tree
from .journal import read_journal

PROGRESS = "progress.json"

_PARTIAL, _REPLACED = ".partial", ".replaced"


class Checkpoints:
    """The checkpoints of a run: ``checkpoints/step-00000100``, and the links ``last`` and ``best`` to two of them.

    One that is saved again is first renamed to ``step-00000100.replaced``, which counts until the new one is there.

    Args:
        folder: Of the run.
        keep: How many to keep, besides ``best``.
    """

    def __init__(self, folder: Path, keep: int = 1) -> None:
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
        return next(reversed(self.all().values()), None)

    def all(self) -> dict[int, Path]:
        """All, by their steps, the newest last."""
        found = dict[int, Path]()
        for path in sorted(self.root.glob("step-*")):  # one that is being replaced after the new one
            if name := re.fullmatch(rf"step-(\d+)({_REPLACED})?", path.name):
                found.setdefault(int(name[1]), path)
        return {step: found[step] for step in sorted(found)}

    def save(
        self, step: int, accelerator: Accelerator, write_more: Callable[[Path], None], best_step: int | None
    ) -> None:
        """Save the state of all processes, and what ``write_more(folder)`` writes; call it in every process.

        Args:
            step: Optimizer steps done.
            best_step: That of the best evaluation so far, which ``best`` links to; None before the first.

        Raises:
            OSError: it could not be written. What was there before is intact.
        """
        partial = self.root / _PARTIAL
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
            sync_tree(partial)
            self._put(partial, self.root / f"step-{step:08d}")
            self.link(best_step)
            self._prune()
        accelerator.wait_for_everyone()

    def link(self, best_step: int | None) -> None:
        """Let ``last`` point to the newest checkpoint, and ``best`` to that of the best evaluation, if it is there.

        Call it in the main process when a run goes on: it may have been killed after a checkpoint, before its links.
        """
        best = None if best_step is None else self.all().get(best_step)
        for link, checkpoint in ((self.folder / "last", self.latest()), (self.best, best)):
            if checkpoint is not None:
                replace_link(link, checkpoint)

    def sweep(self) -> None:
        """Remove what was being written, replaced or deleted when a process was killed."""
        replaced = [path for path in self.root.glob(f"*{_REPLACED}") if path.with_suffix("").exists()]
        for leftover in (*self.root.glob(f"{_PARTIAL}*"), *self.root.glob(f"{DELETED}*")):
            shutil.rmtree(leftover)
        for leftover in replaced:
            delete_folder(leftover)

    def _put(self, partial: Path, final: Path) -> None:
        """Give a checkpoint its name; one that has it steps aside before, and goes after."""
        aside = final.with_suffix(_REPLACED)
        if final.exists():
            final.rename(aside)
        partial.rename(final)
        sync_folder(self.root)
        if aside.exists():
            delete_folder(aside)

    def _prune(self) -> None:
        kept = {self.best.resolve()} if self.best.exists() else set()
        for old in list(self.all().values())[: -self.keep]:
            if old.resolve() not in kept:
                delete_folder(old)


def find(path: str) -> Path:
    """The checkpoint at this path, or the newest one of the run at this path.

    Raises:
        ValueError: there is none.
    """
    replaced = Path(f"{Path(path).resolve()}{_REPLACED}")  # where a run was killed while it saved a step again
    for folder in (Path(path), Checkpoints(Path(path)).latest(), Path(path) / "last", replaced):
        if folder is not None and (folder / PROGRESS).exists():
            return folder
    raise ValueError(f"{path!r} must be the folder of a checkpoint or of a run, and is neither.")


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
    (folder / "versions.json").write_text(json.dumps(versions(packages), indent=2))


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
