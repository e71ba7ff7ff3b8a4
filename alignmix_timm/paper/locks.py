"""Who works on what: one lock file for each run, in a folder that processes and machines share.

A lock is made by an exclusive create, and belongs to its maker as long as he touches it. One whose process died where
this one runs, or that nobody touched for minutes, is taken away. Its owner may only have slept: he leaves alone what is
another's by then, and goes on with his run. So a run may be done twice, also where two take the same dead lock away at
the same moment; the line that is written first is its only one.
"""

import functools
import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
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
        with suppress(OSError):
            if _is_held(lock, token):
                lock.unlink()


def is_dead(lock: Path) -> bool:
    """Whether the owner of a lock is gone: his process, if it can be seen from here, or his touches."""
    try:
        age = _now(lock.parent) - lock.stat().st_mtime
        owner = _owner(lock)
    except FileNotFoundError:
        return False
    process, place = owner.get("process"), {name: owner[name] for name in owner if name not in ("process", "token")}
    seen = "host" in place and place.items() <= _place().items()
    return age > EXPIRY or (seen and isinstance(process, int) and not _runs(process))


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
            json.dump({**_place(), "process": os.getpid(), "token": token}, file)
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
    with suppress(FileNotFoundError):
        return _owner(lock).get("token") == token
    return False


def _owner(lock: Path) -> dict[str, Any]:
    """What a lock says of its owner; nothing where it is not written yet, or never was.

    Raises:
        FileNotFoundError: there is no such lock.
    """
    try:
        owner = json.loads(lock.read_text())
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


@functools.cache
def _place() -> dict[str, str]:
    """Where a process has the number that is seen from here; containers and machines may share the name of a host."""
    place = {"host": socket.gethostname()}
    with suppress(OSError):  # Linux has both
        place["boot"] = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        place["process_namespace"] = os.readlink("/proc/self/ns/pid")
    return place


def _touch(lock: Path, token: str, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT):
        with suppress(OSError):  # a shared folder may fail for a moment
            if _is_held(lock, token):
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
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True
