"""The picture of localization: images, maps, and boxes around what the network looks at (AlignMix, Figure 5)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from .plotting import new_figure, short, show

_CELL, _CAPTION = 1.9, 0.5  # inches
_TRUE, _PREDICTED = "#19d219", "#ff2020"


class Located(NamedTuple):
    """One image of the picture, all in pixels of the network's input.

    Attributes:
        pixels: [C, H, W] in [0, 1].
        scores: The map, [H, W] in [0, 1].
        box: From the map, [4].
        truth: Boxes around the objects, [G, 4].
        overlap: Intersection over union of the box and the best of these.
        title: Name of the class whose map this is.
        note: What else is to be said in a line, or nothing.
        aspect: Height of the image as a share of its width, before it was resized to a square.
    """

    pixels: Tensor
    scores: np.ndarray
    box: np.ndarray
    truth: np.ndarray
    overlap: float
    title: str
    note: str
    aspect: float


def draw_localization(images: Sequence[Located], title: str) -> Any:
    """A column for each image: the image with its boxes, and below it the map on the image.

    Returns:
        A matplotlib figure.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure = new_figure(_CELL * len(images), 2 * _CELL + _CAPTION + 0.4)
    figure.suptitle(f"{title}. Boxes: red from the map, green true", fontsize="medium")
    axes = figure.subplots(2, len(images), squeeze=False)
    for (above, below), image in zip(axes.T, images, strict=True):
        height, width = image.scores.shape
        for axis in (above, below):
            show(axis, 2 * image.pixels - 1)
            for box, color in (*((box, _TRUE) for box in image.truth), (image.box, _PREDICTED)):
                _outline(axis, box, color)
            axis.set_aspect(image.aspect * width / height)
        below.imshow(image.scores, cmap="jet", vmin=0, vmax=1, alpha=0.45)
        below.set_aspect(image.aspect * width / height)
        above.set_title(short(image.title), fontsize="small", parse_math=False)
        text = "\n".join([f"IoU {image.overlap:.2f}", *([short(image.note)] if image.note else [])])
        below.set_xlabel(text, fontsize="small", parse_math=False)
    return figure


def _outline(axis: Any, box: np.ndarray, color: str) -> None:
    from matplotlib.patches import Rectangle

    x0, y0, x1, y1 = (float(side) for side in box)
    axis.add_patch(Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0 + 1, y1 - y0 + 1, fill=False, color=color, linewidth=2))
