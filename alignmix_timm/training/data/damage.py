"""Why a dataset could not be loaded, where ``datasets`` leaves it to the error behind its own."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets.exceptions import DatasetGenerationError

_LONGEST = 400  # characters of a reason; Arrow adds whole schemas


def reason_of(error: Exception, path: Path) -> str:
    """A phrase without a full stop: what went wrong, and in which file, if one below ``path`` cannot be opened."""
    cause: BaseException = error
    if isinstance(error, DatasetGenerationError):  # says no more than that an error occurred
        while cause.__cause__ is not None:
            cause = cause.__cause__
    text = " ".join(str(cause).split()) or type(cause).__name__
    text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."
    broken = broken_file(path)
    text = text.rstrip(".!")
    return text if broken is None else f"{broken} is damaged or incomplete: {text}"


def broken_file(path: Path) -> Path | None:
    """The first parquet file, Arrow file or zip archive here or below that cannot be opened; None if there is none."""
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.suffix in _OPENED_BY and file.is_file():
            try:
                _OPENED_BY[file.suffix](file)
            except Exception:  # of many kinds
                return file
    return None


def _open_arrow(file: Path) -> None:
    with pa.memory_map(str(file)) as source:
        pa.ipc.open_stream(source).read_all()  # maps it, and copies nothing


_OPENED_BY: dict[str, Callable[[Path], object]] = {
    ".parquet": pq.read_metadata,
    ".arrow": _open_arrow,
    ".zip": zipfile.ZipFile,
}
