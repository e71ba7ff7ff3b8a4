"""Figure 4 of the paper: reliability diagrams of all methods."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..evaluation.plotting import save_figure
from ..evaluation.reliability import reliability_diagrams
from .numbers import paper_tables
from .results import Line
from .scales import Scale, cell, cells, method_of


def save_figure4(scale: Scale, configs: Path, lines: Sequence[Line], path: Path) -> Path:
    """Draw a diagram of each method of Table 7, of the test images of all its seeds together.

    Args:
        scale, configs: See :func:`.scales.cell`.
        lines: Of the runs.
        path: Of the picture.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: no run to draw; the picture cannot be written.
    """
    table = paper_tables()["table7"]
    models: dict[str, Any] = {}
    for row, column, aligned in cells(table):
        method = method_of(table, row, aligned)
        config = cell(scale, column, method, configs)
        bins = [line["result"]["bins"] for line in lines if line["config"] == config and "bins" in line["result"]]
        if bins:
            models[method.label] = {name: _summed([one[name] for one in bins]) for name in bins[0]}
    if not models:
        raise ValueError("figure4 needs the runs of table7, and there is none: call table7 without --print-only.")
    try:
        save_figure(reliability_diagrams(models), path)
    except OSError as error:
        raise ValueError(
            f"results must be a folder to which figure4 can be written, got {str(path.parent)!r}: {error}. Change its "
            "permissions, or pass --results a copy of it."
        ) from error
    return path


def _summed(parts: Sequence[Sequence[float]]) -> list[float]:
    return [sum(ones) for ones in zip(*parts, strict=True)]
