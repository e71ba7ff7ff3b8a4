"""The folder of a run: made where it can be, and held by one run at a time."""

import contextlib
import fcntl
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from ..params import process_index
from ..publishing.save import check_replaceable
from .checkpoint import Checkpoints

_LOCK = "lock"
_WRITTEN = (
    *(_LOCK, "config.yaml", "versions.json", "metrics.jsonl", "curves.png", "reliability.png", "push.log"),
    *("checkpoints", "last", "best", "model", "push"),
)


class HeldError(ValueError):
    """The folder of a run is held by another process, whose number is ``process``."""

    def __init__(self, folder: Path, process: str) -> None:
        self.process = process
        super().__init__(
            f"the run in {folder} is held by process {process}: wait for it, stop it, or pass another --output."
        )


def make_folder(option: str, folder: Path) -> None:
    """Make the folder that an option names, for results and a model in ``model/``.

    Raises:
        ValueError: it cannot be made; or ``model/`` is there, and is somebody else's.
    """
    _make(option, folder)
    check_replaceable(folder / "model")


def _make(option: str, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{option} must be a folder that can be written, got {str(folder)!r}: {error}.") from error


def check_ours(folder: Path) -> None:
    """Raise ValueError for a folder that is not of a run, and holds a file that a run would write or delete."""
    lock = folder / _LOCK
    held = lock.is_file() and re.fullmatch(rb"\d*", lock.read_bytes())
    if held or Checkpoints(folder).latest() is not None:
        return
    others = [name for name in _WRITTEN if (folder / name).exists() or (folder / name).is_symlink()]
    if others:
        raise ValueError(
            f"output must be a new folder or that of a run; {folder} holds {others[0]!r}, which no run has made. Pass "
            "another --output."
        )


@contextlib.contextmanager
def temporary_folder(beside: Path, accelerator: Accelerator) -> Iterator[Path]:
    """A new folder beside another, the same in all processes; the main process removes it in the end."""
    with contextlib.ExitStack() as stack:
        made = [""]
        if accelerator.is_main_process:
            _make("output", beside.parent)
            made = [stack.enter_context(tempfile.TemporaryDirectory(prefix=f"{beside.name}-", dir=beside.parent))]
        yield Path(broadcast_object_list(made)[0])
        accelerator.wait_for_everyone()


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder of a run in its main process; the lock ends with the process, however it ends.

    Raises:
        HeldError: another process holds it, such as one left over from a launcher that was killed.
        ValueError: it cannot be made; or it holds files of somebody else.
    """
    if process_index():
        yield
        return
    make_folder("output", folder)
    check_ours(folder)
    with (folder / _LOCK).open("a+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            raise HeldError(folder, file.read().strip() or "unknown") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
