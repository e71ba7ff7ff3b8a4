"""The results of an evaluation: ``evaluation.json``, written anew as each part ends, and the table on the terminal."""

import json
from pathlib import Path
from typing import Any

from ..evaluation.metric import Metric
from ..publishing.evaluation import EVALUATION, read_evaluation
from ..publishing.provenance import hardware, versions
from ..training.durable import write_whole
from .part import Part, Values

_PACKAGES = ("alignmix-timm", "torch", "timm", "torchvision", "numpy", "datasets", "pillow")


class Report:
    """The results in a folder.

    Args:
        folder: Of ``evaluation.json`` and the pictures.
        model, data: As they describe themselves.
        overwrite: Begin anew, whatever is there.

    Raises:
        ValueError: the folder cannot be made, or has the results of another model or of other data.
    """

    def __init__(self, folder: Path, model: dict[str, Any], data: dict[str, Any], overwrite: bool = False) -> None:
        self.folder = folder
        subject = json.loads(json.dumps({"model": model, "data": data}))  # tuples are lists, as in the file
        found = {} if overwrite else read_evaluation(folder) or {}
        for name, value in subject.items() if found else ():
            if found[name] != value:
                changed = [key for key in value if found[name].get(key) != value[key]]
                raise ValueError(
                    f"{folder} has results of other {'weights' if name == 'model' else name}: "
                    f"{_differing(found[name], value, changed)}. Pass another --out, or --overwrite."
                )
        self.content = {**subject, "parts": found.get("parts", {})}

    def done(self, part: Part, settings: dict[str, Any]) -> bool:
        """Whether the results of a part stand already, measured with the same settings."""
        return self.content["parts"].get(part.name, {}).get("settings") == json.loads(json.dumps(settings))

    def write(self, part: Part, settings: dict[str, Any], values: Values, pictures: list[str]) -> None:
        """Write the file with the results of a part."""
        metrics = {key: metric_of(part, key) for key in values}
        self.content["parts"][part.name] = {
            "settings": settings,
            "values": values,
            "metrics": {metric.key: metric._asdict() for metric in metrics.values()},
            "pictures": pictures,
            "versions": versions(_PACKAGES),
            "hardware": hardware(),
        }
        write_whole(self.folder / EVALUATION, json.dumps(self.content, indent=2, allow_nan=False) + "\n")

    def table(self) -> str:
        """All results, a line each: label and value; values of a set come after its name."""
        lines = []
        for part in self.content["parts"].values():
            for key, value in part["values"].items():
                group, _, name = key.rpartition("/")
                label = part["metrics"][name]["label"]
                lines.append((f"{group}: {label}" if group else label, _number(value)))
        widths = [max(len(line[column]) for line in lines) for column in (0, 1)]
        return "\n".join(f"{label:<{widths[0]}}  {value:>{widths[1]}}" for label, value in lines)


def metric_of(part: Part, key: str) -> Metric:
    """The metric of a key, which may begin with the name of a set."""
    return next(metric for metric in part.metrics if metric.key == key.rpartition("/")[2])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}" if abs(value) >= 1 else f"{value:.4f}"


def _differing(old: dict[str, Any], new: dict[str, Any], changed: list[str]) -> str:
    return ", ".join(f"{key} {old.get(key)!r}, now {new[key]!r}" for key in changed[:2]) or "written by another version"
