"""Reliability diagrams (Guo et al., 2017; AlignMix, Figure 4): accuracy by bins of confidence, several models."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .plotting import new_figure

_MOST_COLUMNS = 4

Bins = Mapping[str, Sequence[float]]


def reliability_diagrams(models: Mapping[str, Bins], title: str = "") -> Any:
    """Accuracy against confidence of each model, above how many images have that confidence.

    Bars are the accuracy of each bin that is not empty, hatched bars its distance from the mean confidence. Dashed
    lines in the histogram are the mean accuracy and confidence of all images.

    Args:
        models: By the title of its diagram, the sums of each bin, as :func:`.calibration.bin_lists` gives them.
        title: Of the figure.

    Returns:
        A matplotlib figure. Two axes a model: those of the diagrams of a row come before those of its histograms.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: no model, or one without images.
    """
    for name, bins in models.items():
        if not sum(bins["examples"]):
            raise ValueError(f"the bins of {name!r} hold no image, so there is nothing to draw.")
    if not models:
        raise ValueError("models must be at least one, got none.")
    rows = -(-len(models) // _MOST_COLUMNS)
    columns = -(-len(models) // rows)
    figure = new_figure(4.5 * columns, 5.3 * rows + 0.6)
    figure.suptitle(title, fontsize="x-large", parse_math=False)
    axes = figure.subplots(2 * rows, columns, sharex=True, sharey="row", squeeze=False, height_ratios=(3, 1) * rows)
    highest = max(max(bins["examples"]) / sum(bins["examples"]) for bins in models.values())
    for place, (name, bins) in enumerate(models.items()):
        row, column = divmod(place, columns)
        top, bottom = axes[2 * row : 2 * row + 2, column]
        top.set_title(name, parse_math=False)
        _draw_bins(top, bottom, *(np.array(bins[key]) for key in ("examples", "correct", "confidence")))
        bottom.set_ylim(0, 1.05 * highest)
        if not column:
            top.set_ylabel("accuracy")
            bottom.set_ylabel("share of images")
    for unused in range(len(models), rows * columns):
        for one in axes[-2:, unused % columns]:
            one.remove()
    described = [pair for one in axes[:2, 0] for pair in zip(*one.get_legend_handles_labels(), strict=True)]
    figure.legend(*zip(*described, strict=True), loc="outside lower center", ncols=2 if columns == 1 else 5)
    return figure


def _draw_bins(top: Any, bottom: Any, examples: np.ndarray, correct: np.ndarray, confidence: np.ndarray) -> None:
    """Accuracy and its distance from the mean confidence on the one axes, the histogram on the other."""
    filled, width = examples > 0, 1 / len(examples)
    left = np.arange(len(examples)) * width
    accuracy, mean = (total[filled] / examples[filled] for total in (correct, confidence))
    bar = dict(width=width, align="edge", edgecolor="black", linewidth=0.5)
    top.bar(left[filled], accuracy, color="lightblue", label="accuracy", **bar)
    gap = bar | dict(fill=False, edgecolor="tab:red", hatch="//", label="gap to mean confidence")
    top.bar(left[filled], mean - accuracy, bottom=accuracy, **gap)
    top.plot((0, 1), (0, 1), "--", color="0.4", label="perfectly calibrated")
    top.set(xlim=(0, 1), ylim=(0, 1))
    bottom.bar(left, examples / examples.sum(), color="lightblue", **bar)
    bottom.axvline(correct.sum() / examples.sum(), linestyle="--", color="tab:blue", label="mean accuracy")
    bottom.axvline(confidence.sum() / examples.sum(), linestyle="--", color="tab:red", label="mean confidence")
    bottom.tick_params(labelbottom=True)
    bottom.set_xlabel("confidence")
