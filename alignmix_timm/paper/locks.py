"""Who works on what: one lock file for each run, in a folder that processes and machines share.

A lock is made by an exclusive create, and belongs to its maker as long as he touches it. One whose process died on this
machine, or that nobody touched for minutes, is taken away. Two that take the same dead lock away at the same moment may
both get it: then a run is done twice, with the same result.
"""

import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

HEARTBEAT, EXPIRY = 20.0, 300.0  # seconds between touches, and without one until a lock counts as dead


@contextmanager
def holding(lock: Path) -> Iterator[bool]:
    """Whether the lock could be had; it is held, and touched, until the end.

    Args:
        lock: A file that does not exist yet, unless another holds it. Its folder is made.
    """
    if not _take(lock):
        yield False
        return
    stop = threading.Event()
    beat = threading.Thread(target=_touch, args=(lock, stop), daemon=True)
    beat.start()
    try:
        yield True
    finally:
        stop.set()
        beat.join()
        lock.unlink(missing_ok=True)


def is_dead(lock: Path) -> bool:
    """Whether the owner of a lock is gone: his process, if it was on this machine, or his touches."""
    try:
        age = _now(lock.parent) - lock.stat().st_mtime
        owner = json.loads(lock.read_text())
    except FileNotFoundError:
        return False
    except ValueError:  # not written yet, or never
        return age > EXPIRY
    return age > EXPIRY or (owner["host"] == socket.gethostname() and not _runs(owner["process"]))


def _take(lock: Path) -> bool:
    lock.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(2):
        try:
            descriptor = os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            if not is_dead(lock):
                return False
            _bury(lock)
            continue
        with os.fdopen(descriptor, "w") as file:
            json.dump({"host": socket.gethostname(), "process": os.getpid()}, file)
        return True
    return False


def _bury(lock: Path) -> None:
    """Take a dead lock away; put it back if it turns out to be that of somebody who was quicker."""
    grave = lock.with_name(f"{lock.name}.{uuid4().hex}")
    try:
        lock.rename(grave)
    except FileNotFoundError:
        return
    if not is_dead(grave):
        with suppress(FileExistsError):
            os.link(grave, lock)
    grave.unlink()


def _touch(lock: Path, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT):
        try:
            os.utime(lock)
        except FileNotFoundError:
            return


def _now(folder: Path) -> float:
    """The time by the clock that stamps the files of a folder, which may be another machine's."""
    probe = folder / f".{uuid4().hex}"
    probe.touch()
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink()


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
