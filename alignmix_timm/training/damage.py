"""Checkpoints that lost a file, or a part of one, after they were written: found before anything is loaded."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from safetensors import safe_open

from .checkpoint import PROGRESS, Checkpoints

_NEEDED = (PROGRESS, "config.yaml", "model.safetensors", "optimizer.bin")


def check_whole(checkpoint: Path) -> None:
    """Raise ValueError if a file of a checkpoint is missing or cut short; the newest that is whole is named."""
    reason = damage(checkpoint)
    if reason is None:
        return
    others = Checkpoints(checkpoint.resolve().parents[1]).all().values()
    whole = next((other for other in reversed(others) if damage(other) is None), None)
    instead = (
        f"Move it elsewhere; {whole} is the newest that is whole, from which --resume auto then goes on."
        if whole
        else "There is no other that is whole: begin again, with another --output."
    )
    raise ValueError(f"the checkpoint {checkpoint} is damaged: {reason}. {instead}")


def damage(checkpoint: Path) -> str | None:
    """The first file of a checkpoint that is missing or cannot be read, and why; None if it is whole.

    Of tensors only the table of contents is read, which notices a file that is cut short, and not a changed bit.
    """
    for name in _NEEDED:
        if not (checkpoint / name).is_file():
            return f"it has no {name}"
    for path in sorted(checkpoint.iterdir()):
        try:
            _READERS.get(path.suffix, _skip)(path)
        except Exception as error:  # each format reports by an error of its own
            return f"{path.name} cannot be read ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
    return None


def _read_json(path: Path) -> None:
    json.loads(path.read_text())


def _read_yaml(path: Path) -> None:
    if not isinstance(yaml.safe_load(path.read_text()), dict):
        raise ValueError("it holds no options")


def _read_tensors(path: Path) -> None:
    with safe_open(path, "pt"):
        pass


def _read_archive(path: Path) -> None:
    with zipfile.ZipFile(path):
        pass


def _skip(path: Path) -> None:
    pass


_READERS: dict[str, Callable[[Path], Any]] = {
    **{".json": _read_json, ".yaml": _read_yaml, ".safetensors": _read_tensors},
    **{".bin": _read_archive, ".pt": _read_archive},
}
