"""The names of classes that the parquet files of a folder state."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq


def check_class_lists(files: list[Path]) -> None:
    """Raise ValueError if two files name the classes of a column differently: their labels would be mixed up."""
    known: dict[str, tuple[list[str], Path]] = {}
    for file in files:
        for column, names in _class_lists(file).items():
            first, where = known.setdefault(column, (names, file))
            if first != names:
                raise ValueError(
                    f"the classes of {column!r} in {file.name} and {where.name} differ, so their labels do not mean "
                    "the same: save them with one list of names."
                )


def features_without_repeated_names(folder: Path) -> datasets.Features | None:
    """The columns of parquet files in which two classes have one name, told apart by their numbers.

    ``datasets`` refuses to read them otherwise, as ImageNet's with its two cranes.

    Returns:
        The columns; None where no name is repeated.
    """
    for file in sorted(folder.rglob("*.parquet")):
        columns = _stated_columns(file)
        lists = [column["names"] for column in columns.values() if _is_class(column)]
        if any(len(set(names)) < len(names) for names in lists):
            unique = {
                name: {**column, "names": _told_apart(column["names"])} if _is_class(column) else column
                for name, column in columns.items()
            }
            return datasets.Features.from_dict(unique)
    return None


def _told_apart(names: list[str]) -> list[str]:
    counts = Counter(names)
    return [name if counts[name] == 1 else f"{name} ({number})" for number, name in enumerate(names)]


def _class_lists(file: Path) -> dict[str, list[str]]:
    """The names of the classes of each column, as a file of ``datasets`` states them."""
    return {name: column["names"] for name, column in _stated_columns(file).items() if _is_class(column)}


def _stated_columns(file: Path) -> dict[str, Any]:
    """The columns as ``datasets`` noted them in a parquet file; none where it did not write it."""
    if file.suffix != ".parquet":
        return {}
    try:
        schema = pq.read_schema(file)
    except (pa.ArrowException, OSError):
        return {}  # damaged: said when it is loaded
    stated = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    return stated.get("info", {}).get("features", {})


def _is_class(column: Any) -> bool:
    return isinstance(column, dict) and column.get("_type") == "ClassLabel"
