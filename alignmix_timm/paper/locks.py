"""Who works on what: one lock file for each run, in a folder that processes and machines share.

A lock is made by an exclusive create, and belongs to its maker as long as he touches it. One whose process died on this
machine, or that nobody touched for minutes, is taken away. Its owner may only have slept: he leaves alone what is
another's by then, and goes on with his run. So a run may be done twice, also where two take the same dead lock away at
the same moment; the line that is written first is its only one.
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
    token = uuid4().hex
    if not _take(lock, token):
        yield False
        return
    stop = threading.Event()
    beat = threading.Thread(target=_touch, args=(lock, token, stop), daemon=True)
    beat.start()
    try:
        yield True
    finally:
        stop.set()
        beat.join()
        if _is_held(lock, token):
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


def _take(lock: Path, token: str) -> bool:
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
            json.dump({"host": socket.gethostname(), "process": os.getpid(), "token": token}, file)
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


def _is_held(lock: Path, token: str) -> bool:
    """Whether the lock is still the one that was taken with this token."""
    try:
        return json.loads(lock.read_text()).get("token") == token
    except (FileNotFoundError, ValueError):  # a new owner has not written his yet
        return False


def _touch(lock: Path, token: str, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT):
        if _is_held(lock, token):
            with suppress(FileNotFoundError):
                os.utime(lock)


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
