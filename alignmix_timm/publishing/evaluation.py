"""The file in which ``alignmix-timm evaluate`` leaves its results, and where it is found beside a model."""

import json
from pathlib import Path
from typing import Any

EVALUATION = "evaluation.json"


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
