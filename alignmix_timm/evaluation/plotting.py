"""Figures of matplotlib, which need not be installed."""

import textwrap
from pathlib import Path
from typing import Any

from torch import Tensor

_MOST = 24  # letters of a name


def new_figure(width: float, height: float) -> Any:
    """An empty figure, in inches.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install 'alignmix-timm[plots]'.") from error
    return Figure(figsize=(width, height), layout="constrained")


def show(axes: Any, image: Tensor) -> None:
    """An image [C, H, W] in [-1, 1], grey or colour, without ticks."""
    pixels = ((image + 1) / 2).clamp(0, 1).permute(1, 2, 0).squeeze(2)
    axes.imshow(pixels.cpu().numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set(xticks=[], yticks=[])


def short(name: str) -> str:
    """The first of the names that a class has, as far as it fits below a small image."""
    return textwrap.shorten(name.partition(",")[0], _MOST, placeholder="…")


def save_figure(figure: Any, path: Path) -> None:
    """Write a PNG; a picture of this name is replaced once the new one is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}")
    try:
        figure.savefig(partial, format="png", dpi=100)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
