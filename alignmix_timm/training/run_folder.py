"""The folder of a run: made where it can be, and held by one run at a time."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from ..params import process_index


def make_folder(option: str, folder: Path) -> None:
    """Make the folder that an option names; raise ValueError if that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{option} must be a folder that can be written, got {str(folder)!r}: {error}.") from error


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder of a run in its main process; the lock ends with the process, however it ends.

    Raises:
        ValueError: it cannot be made; or another process holds it, such as one left over from a launcher that was
            killed.
    """
    if process_index():
        yield
        return
    make_folder("output", folder)
    with (folder / "lock").open("a+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            raise ValueError(
                f"the run in {folder} is held by process {file.read().strip() or 'unknown'}: wait for it, stop it, or "
                "pass another --output."
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
