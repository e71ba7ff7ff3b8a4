"""The picture of an alignment: which positions of two images correspond."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..evaluation.plotting import new_figure, show
from .positions import Positions

_HUES = torch.tensor(  # red, orange, yellow, green, cyan, blue, purple
    [[230, 25, 75], [245, 130, 49], [255, 225, 25], [60, 180, 75], [66, 212, 244], [67, 99, 216], [145, 30, 180]]
).div(255)
_TITLES = ("first: each position has a color", "second: the color of its partner", "partners of the marked position")
_WIDTH = 9.0  # inches, of 100 pixels


def colors(places: Positions) -> Tensor:
    """A color for each position, [N, 3] in [0, 1]: its hue says how far right it is, its lightness how high.

    Neighbours have similar colors, and no two positions the same.
    """
    x, y = places.centers().float().T
    place = x * (len(_HUES) - 1)
    left = place.long()
    hue = torch.lerp(_HUES[left], _HUES[left + 1], (place - left)[:, None])
    height = (1 - 2 * y)[:, None]  # 1 at the top, -1 at the bottom
    return torch.lerp(hue, (height > 0).float(), 0.7 * height.abs())  # to white, or to black


def draw_alignment(images: Tensor, assignment: Tensor, places: Positions, position: tuple[int, int], title: str) -> Any:
    """Two images side by side, their positions coloured, and the partners of one position as a heat map.

    Each position of the first image has a color of its own; each of the second that of its partner, the position of
    the first that gives it the largest weight.

    Args:
        images: The first and the second, [2, C, H, W] in [-1, 1].
        assignment: Of the positions of the first to those of the second, [N, N].
        places: The positions of both.
        position: Row and column of the position whose partners are shown.
        title: Above the picture.

    Returns:
        A matplotlib figure.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: there is no such position.
    """
    rows, columns = places.grid
    if not (0 <= position[0] < rows and 0 <= position[1] < columns):
        raise ValueError(
            f"position must be a row in [0, {rows - 1}] and a column in [0, {columns - 1}], got {position[0]} "
            f"{position[1]}."
        )
    number = position[0] * columns + position[1]
    weights = assignment[number].view(rows, columns)
    height, width = images.shape[2:]
    figure = new_figure(_WIDTH, _WIDTH / 3 * height / width + 0.55)
    figure.suptitle(title, fontsize="medium", parse_math=False)
    axes = figure.subplots(1, 3)
    for axis, image, name in zip(axes, (*images, images[1]), _TITLES, strict=True):
        show(axis, image)
        axis.set_title(name, fontsize="medium")
    own, pixels = colors(places), (places.centers() * torch.tensor([width, height]) - 0.5).numpy()
    for axis, shades in ((axes[0], own), (axes[1], own[assignment.argmax(0)])):
        axis.scatter(*pixels.T, _area(places, 0.55), shades.numpy(), edgecolors="white", linewidths=0.6)
    for color, line in (("black", 2.5), ("white", 1.2)):  # a ring, seen on dark and on light
        axes[0].scatter(*pixels[number], _area(places, 0.9), facecolors="none", edgecolors=color, linewidths=line)
    axes[2].images[0].set_alpha(0.75)
    heat = axes[2].imshow(
        weights.numpy(), cmap="YlOrRd", vmin=0, extent=axes[2].images[0].get_extent(), alpha=_opacity(weights)
    )
    figure.colorbar(heat, ax=axes[2], shrink=0.8, label="weight")
    return figure


def _opacity(weights: Tensor) -> np.ndarray:
    """Positions without weight show the image."""
    share: np.ndarray = (weights / weights.max()).clamp(0, 1).numpy()
    return 0.85 * np.sqrt(share)


def _area(places: Positions, share: float) -> float:
    """Of a dot whose diameter is this share of a position, in points."""
    return (share * _WIDTH / 3 * 72 / max(places.grid)) ** 2
