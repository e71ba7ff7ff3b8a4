"""The classes of a run, kept with its checkpoints: the rows of a classifier mean nothing without them."""

import json
from pathlib import Path

_FILE = "classes.json"


def save_classes(folder: Path, names: list[str]) -> None:
    """Write the names of the classes into a checkpoint."""
    (folder / _FILE).write_text(json.dumps(names, indent=2))


def saved_classes(folder: Path) -> list[str] | None:
    """The names of the classes in a checkpoint; None in one of a version that did not write them."""
    path = folder / _FILE
    return json.loads(path.read_text()) if path.exists() else None


def check_same(names: list[str], saved: list[str]) -> None:
    """Raise ValueError unless the classes of the data are those that a checkpoint was trained with, in order."""
    if len(names) != len(saved):
        raise ValueError(
            f"the data must have the {len(saved)} classes that the checkpoint was trained with, got {len(names)}"
            f"{_differing(names, saved)}."
        )
    changed = [number for number, (one, two) in enumerate(zip(names, saved, strict=True)) if one != two]
    if changed:
        first = changed[0]
        raise ValueError(
            f"the data must have the classes that the checkpoint was trained with, in their order: class {first} was "
            f"{saved[first]!r}, got {names[first]!r}; {len(changed)} of {len(saved)} differ. Name them as before."
        )


def _differing(names: list[str], saved: list[str]) -> str:
    more, fewer = [one for one in names if one not in saved], [one for one in saved if one not in names]
    told = [f"{word} {', '.join(some[:5])}" for word, some in (("with", more), ("without", fewer)) if some]
    return f", {' and '.join(told)}" if told else ""
