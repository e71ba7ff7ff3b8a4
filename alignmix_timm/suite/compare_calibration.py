"""Reliability diagrams of several models in one figure, as Figure 4 of the paper, from their ``evaluation.json``."""

import json
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..evaluation.plotting import save_figure
from ..evaluation.reliability import Bins, reliability_diagrams
from ..publishing.evaluation import EVALUATION, read_evaluation
from .calibration import diagram_title


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the reliability diagrams of models that alignmix-timm evaluate measured on the same data."""
    parser = ArgumentParser(prog="python -m alignmix_timm.suite.compare_calibration", description=main.__doc__)
    parser.add_argument(
        "results",
        nargs="+",
        metavar="[NAME=]RESULTS",
        help="folder with an evaluation.json, or this file; the default NAME is that of its model",
    )
    parser.add_argument("--out", type=Path, default=Path("reliability.png"), help="default reliability.png")
    options = parser.parse_args(arguments)
    try:
        save_figure(reliability_diagrams(*read_diagrams(options.results)), options.out)
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    print(options.out)


def read_diagrams(results: Sequence[str]) -> tuple[dict[str, Bins], str]:
    """The bins of each model by the title of its diagram, and the name of the data.

    Args:
        results: ``RESULTS`` or ``NAME=RESULTS``, where RESULTS is a folder of ``evaluation.json``, or the file.

    Raises:
        ValueError: there are no such results, of different data, without calibration, or two of one name.
    """
    diagrams: dict[str, Bins] = {}
    contents: dict[str, dict[str, Any]] = {}
    for given in results:
        name, content = _read(given)
        if name in contents:
            raise ValueError(f"the names of models must differ, got {name!r} twice: pass NAME={given}.")
        calibration = content["parts"].get("calibration", {})
        if "bins" not in calibration.get("details", {}):
            raise ValueError(f"{given} has no results of calibration: evaluate the model with --suite calibration.")
        contents[name] = content
        diagrams[diagram_title(name, calibration["values"])] = calibration["details"]["bins"]
    (first, reference), *others = ((name, content["data"]) for name, content in contents.items())
    for name, data in others:
        if any(data[key] != reference[key] for key in ("sha256", "rows", "labels")):
            raise ValueError(
                f"the models must be evaluated on the same images and labels, got {json.dumps(reference)} of {first!r} "
                f"and {json.dumps(data)} of {name!r}."
            )
    return diagrams, f"{reference['name']}, {reference['rows']} images"


def _read(given: str) -> tuple[str, dict[str, Any]]:
    """The name and the results of a model."""
    name, equals, rest = given.partition("=")
    path = Path(given if Path(given).exists() or not equals else rest).expanduser()
    content = read_evaluation(path.parent if path.name == EVALUATION else path)
    if content is None:
        raise ValueError(f"results must be a folder with an {EVALUATION}, or this file, got {str(path)!r}.")
    return (name if equals and path != Path(given) else content["model"]["name"]), content


if __name__ == "__main__":
    main()
