"""The results of finished runs: a file with one JSON line for each, which processes and machines may share."""

import fcntl
import json
import os
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

Line = dict[str, Any]
_IDENTITY = ("scale", "config", "seed")


def read_lines(folder: Path) -> list[Line]:
    """The lines of all files of the folder, each run once."""
    found: dict[str, Line] = {}
    for file in sorted(folder.glob("*.jsonl")):
        for line in read_file(file):
            if _is_finished(line):  # other files of JSON lines may lie there too
                found.setdefault(identity(line), line)
    return list(found.values())


def read_file(file: Path) -> list[Line]:
    """The lines of a file, none if there is no file; one that a kill left unfinished is not one.

    Raises:
        ValueError: the file cannot be read, or is no text.
    """
    try:
        texts = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{file} cannot be read as lines of JSON: {error}. Repair it, or move it elsewhere."
        ) from error
    lines = []
    for text in texts:
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines


def identity(run: Line) -> str:
    """What tells runs apart: scale, config and seed, as one canonical text."""
    return json.dumps({name: run[name] for name in _IDENTITY}, sort_keys=True)


def find(lines: Iterable[Line], run: Line) -> Line | None:
    """The line of a run; None if it is not done."""
    sought = identity(run)
    return next((line for line in lines if identity(line) == sought), None)


def missing(runs: Iterable[Line], lines: Iterable[Line]) -> list[Line]:
    """The runs that are not done."""
    done = {identity(line) for line in lines}
    return [run for run in runs if identity(run) not in done]


def check_writable(folder: Path, names: Iterable[str]) -> None:
    """See that the files of these names, and locks, can be written in the folder of the results, which is made.

    Raises:
        ValueError: they cannot.
    """
    try:
        (folder / "locks").mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=folder / "locks").close()
        for name in names:
            (folder / name).open("ab").close()
    except OSError as error:
        raise ValueError(
            f"results must be a folder to which finished runs can be written, got {str(folder)!r}: {error}. Change its "
            "permissions, or pass --results another folder."
        ) from error


def append_line(file: Path, line: Line, once: bool = False) -> None:
    """Write a line at the end of the file, after what a kill left of an unfinished one, and bring it to disk.

    With ``once`` nothing is written if the file has a line of the same run by now.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("ab+") as lines:
        fcntl.flock(lines, fcntl.LOCK_EX)
        if once and find(filter(_is_finished, read_file(file)), line) is not None:
            return
        end = lines.seek(0, os.SEEK_END)
        if end:
            lines.seek(end - 1)
            if lines.read(1) != b"\n":
                lines.write(b"\n")
        lines.write(json.dumps(line).encode() + b"\n")
        lines.flush()
        os.fsync(lines.fileno())


def _is_finished(line: Any) -> bool:
    """Whether this is the line of a run, with its result."""
    if not isinstance(line, dict) or not line.keys() >= {*_IDENTITY, "result"}:
        return False
    kinds = {"scale": str, "config": dict, "seed": int, "result": dict}
    of_kind = all(isinstance(line[name], kind) for name, kind in kinds.items())
    return of_kind and not {"data", "measure"}.isdisjoint(line["config"])


def value(line: Line, measure: str) -> float | None:
    """A measure of a line, by its key; dots lead into it. None if it was not taken."""
    found: Any = line["result"]
    for name in measure.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    return found


def by_seed(lines: Iterable[Line], config: dict[str, Any] | None, measure: str) -> dict[int, float]:
    """A measure of the runs of one config, where it was taken, by their seeds."""
    values = {line["seed"]: value(line, measure) for line in lines if line["config"] == config}
    return {seed: found for seed, found in sorted(values.items()) if found is not None}
