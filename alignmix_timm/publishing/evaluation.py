"""The file in which ``alignmix-timm evaluate`` leaves its results, and where it is found beside a model."""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from .save import WEIGHTS

EVALUATION = "evaluation.json"


class Line(NamedTuple):
    """A number of an evaluation as it is shown; of several sets, each has a line."""

    part: str
    label: str
    value: str
    definition: str


def evaluation_folder(model: Path) -> Path:
    """Where the results of a model folder are by default: beside it, since it is replaced as a whole."""
    return model.with_name(f"{model.name}-evaluation")


def read_evaluation(folder: Path) -> dict[str, Any] | None:
    """The results in a folder; None if there are none.

    Raises:
        ValueError: the file is not one of ``alignmix-timm evaluate``.
    """
    path = folder / EVALUATION
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text())
        if {"model", "data", "parts"} <= content.keys():
            return content
    except (OSError, ValueError, AttributeError):
        pass
    raise ValueError(f"{path} must be a file of alignmix-timm evaluate, and is not. Move it elsewhere.")


def evaluation_of(model: Path) -> dict[str, Any] | None:
    """The results beside a model folder; None if there are none, or they are of other weights."""
    content = read_evaluation(evaluation_folder(model.resolve()))
    return content if content and content["model"].get("sha256") == sha256_of(model / WEIGHTS) else None


def lines_of(content: dict[str, Any]) -> list[Line]:
    """All results, in order."""
    lines = []
    for part, results in content["parts"].items():
        for key, value in results["values"].items():
            group, _, name = key.rpartition("/")
            metric = results["metrics"][name]
            label = f"{group}: {metric['label']}" if group else metric["label"]
            lines.append(Line(part, label, _number(value), metric["definition"]))
    return lines


def sha256_of(file: Path) -> str:
    """Of the bytes of a file."""
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while block := opened.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}" if 0 < abs(value) < 1 else f"{value:.2f}"
