"""Histograms of confidence on in-distribution images and on others, a figure of out-of-distribution detection."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from .plotting import new_figure

_MOST_COLUMNS, _BINS = 3, 40


def confidence_histograms(inliers: Tensor, outliers: Mapping[str, Tensor], threshold: float = 0.5) -> Any:
    """How often each confidence occurs in-distribution (ID) and in each set of out-of-distribution (OOD) images.

    Args:
        inliers: Scores of ID images in [0, 1], [N].
        outliers: Scores of each set of OOD images, [M], by the title of its axes.
        threshold: Marked: images with a lower score are detected as OOD.

    Returns:
        A matplotlib figure, with axes for each set.

    Raises:
        ImportError: matplotlib is not installed.
    """
    rows = -(-len(outliers) // _MOST_COLUMNS)
    columns = -(-len(outliers) // rows)
    figure = new_figure(4.5 * columns, 3.2 * rows + 0.4)
    grid = list(figure.subplots(rows, columns, sharex=True, squeeze=False).flat)
    edges = np.linspace(0, 1, _BINS + 1)
    for axes, (title, scores) in zip(grid, outliers.items(), strict=False):
        for label, color, values in (("ID", "tab:blue", inliers), ("OOD", "tab:red", scores)):
            shares = np.full(len(values), 1 / len(values))
            axes.hist(values.numpy(), edges, weights=shares, color=color, alpha=0.5, label=label)
        axes.axvline(threshold, linestyle="--", color="0.4", label="threshold")
        axes.set_title(title, parse_math=False)
        axes.set(xlim=(0, 1), xlabel="confidence", ylabel="share of images")
        axes.tick_params(labelbottom=True)
    for unused in grid[len(outliers) :]:
        unused.remove()
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure
