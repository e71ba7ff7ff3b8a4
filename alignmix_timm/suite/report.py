"""The results of an evaluation: ``evaluation.json``, written anew as each part ends, and the table on the terminal."""

import itertools
import json
from pathlib import Path
from typing import Any

from ..evaluation.metric import Metric
from ..publishing.evaluation import EVALUATION, lines_of, read_evaluation
from ..publishing.provenance import hardware, versions
from ..training.durable import write_whole
from .part import Part, Values

_PACKAGES = ("alignmix-timm", "torch", "timm", "torchvision", "numpy", "datasets", "pillow")
_WORDS = ("name", "weights")  # of a model or data, which may change where the hashes do not


class Report:
    """The results in a folder.

    Args:
        folder: Of ``evaluation.json`` and the pictures.
        model, data: As they describe themselves.
        overwrite: Begin anew, whatever is there.

    Raises:
        ValueError: the folder has the results of another model or of other data, or a file of somebody else.
    """

    def __init__(self, folder: Path, model: dict[str, Any], data: dict[str, Any], overwrite: bool = False) -> None:
        self.folder = folder
        subject = json.loads(json.dumps({"model": model, "data": data}))  # tuples are lists, as in the file
        found = {} if overwrite else read_evaluation(folder) or {}
        for name, now in subject.items() if found else ():
            changed = [key for key in now if key not in _WORDS and found[name].get(key) != now[key]]
            if changed:
                differing = ", ".join(f"{key} {found[name].get(key)!r}, now {now[key]!r}" for key in changed[:2])
                what = "another model" if name == "model" else "other data"
                raise ValueError(f"{folder} has results of {what}: {differing}. Pass another --out, or --overwrite.")
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
        """All results, a line each: label and value; an empty line between parts."""
        lines = lines_of(self.content)
        label, value = (max(len(getattr(line, column)) for line in lines) for column in ("label", "value"))
        parts = itertools.groupby(lines, key=lambda line: line.part)
        texts = ([f"{line.label:<{label}}  {line.value:>{value}}" for line in part] for _, part in parts)
        return "\n\n".join(map("\n".join, texts))


def metric_of(part: Part, key: str) -> Metric:
    """The metric of a key, which may begin with the name of a set."""
    return next(metric for metric in part.metrics if metric.key == key.rpartition("/")[2])
