"""The file of ``--save``: JSON lines, one a model, to which rows are appended."""

import json
from pathlib import Path
from typing import Any

_BEGINNING = '{"model": "'  # of every line
_KEYS = {"model", "family", "image_size", "timm"}
_FOUND = {"module", "layout", "r", "reason"}


def read_table(path: Path) -> list[dict[str, Any]]:
    """The rows of a file that can be written to, made if there is none; a last line that was cut off is removed.

    Raises:
        OSError: it cannot be read or written.
        ValueError: it holds something else, and was left as it is.
    """
    try:
        with path.open("a+b") as file:
            file.seek(0)
            lines = file.read().splitlines(keepends=True)
            rows = [_row(line) for line in lines]
            cut_off = bool(lines) and rows[-1] is None and _is_cut_off(lines[-1])
            whole = rows[:-1] if cut_off else rows
            if None in whole:
                raise ValueError(
                    f"must be a new file, or one that --save wrote, got {path}: its line {whole.index(None) + 1} is no "
                    "row of a model"
                )
            if cut_off:
                file.truncate(sum(map(len, lines[:-1])))
            elif lines and not lines[-1].endswith(b"\n"):
                file.write(b"\n")
    except OSError as error:
        raise OSError(f"must be a file that can be written, got {path}: {error.strerror}") from error
    return [row for row in whole if row is not None]


def _row(line: bytes) -> dict[str, Any] | None:
    """The row in a line; None if it is another thing."""
    try:
        row = json.loads(line)
    except ValueError:  # of text, or of another encoding
        return None
    is_row = isinstance(row, dict) and row.keys() >= _KEYS and ("refused" in row or row.keys() >= _FOUND)
    return row if is_row else None


def _is_cut_off(line: bytes) -> bool:
    beginning = _BEGINNING.encode()
    return not line.endswith(b"\n") and (line.startswith(beginning) or beginning.startswith(line))
