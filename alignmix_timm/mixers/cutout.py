"""Cutout: a square hole in each image (DeVries and Taylor, https://arxiv.org/abs/1708.04552)."""

from dataclasses import dataclass
from numbers import Real
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ..params import MixParams, Place, check_draw_options, draw, unmixed
from ..seeds import Stream, generator
from .contract import HookedNetwork, Mixed, Mixer
from .cutmix import inside


def hole_around(centre: Tensor, side: Tensor, height: int, width: int) -> Tensor:
    """Squares around pixels, clipped to the image (DeVries and Taylor, section 3.2).

    Args:
        centre: Row and column of each centre, as shares of height and width in [0, 1), [B, 2].
        side: Of the squares as shares of the shorter side of the image, in [0, 1], [B].
        height, width: Of the images, in pixels.

    Returns:
        First row, row after the last, first column, column after the last, [B, 4] int64.
    """
    pixels = (side * min(height, width)).round().long()
    spans: list[Tensor] = []
    for axis, size in enumerate((height, width)):
        low = (centre[:, axis] * size).long() - pixels // 2
        spans += [low.clamp(0, size), (low + pixels).clamp(0, size)]
    return torch.stack(spans, 1)


@dataclass(frozen=True)
class Cutout(Mixer):
    """Fills a square of each image with one value, at a place drawn for each image, and leaves the targets alone.

    The centre is uniform over the pixels, so part of the square may lie outside the image. Images have no partners: a
    batch of one image is cut as well. It costs next to nothing, and goes with every network.

    In the authors' code the side is 16 of 32 pixels for CIFAR-10, which is the default, 8 for CIFAR-100 (``side=0.25``)
    and 20 for SVHN (``side=0.625``); holes are 0 after normalisation, the mean of the images. The AlignMix paper
    compares with it in localization (Table 4).

    Args:
        side: Of the square, as a share of the shorter side of the image, in (0, 1].
        fill: Value of the pixels in it, in the images as the model gets them.
        prob: Probability that a batch is cut, in [0, 1].

    Raises:
        ValueError: an option outside its range.
    """

    name: ClassVar[str] = "cutout"

    side: float = 0.5
    fill: float = 0.0
    prob: float = 1.0

    def __post_init__(self) -> None:
        check_draw_options(prob=self.prob)
        if not isinstance(self.side, Real) or not 0 < self.side <= 1:
            raise ValueError(f"side must be a share of the image's in (0, 1], got {self.side!r}.")
        if not isinstance(self.fill, Real) or not np.isfinite(self.fill):
            raise ValueError(f"fill must be a finite number, got {self.fill!r}. 0 is the mean of normalised images.")

    def draw(self, batch_size: int, place: Place) -> MixParams:
        """Draw the places of the holes. ``lam`` is the share that a hole leaves of a square image, before clipping."""
        if draw(2, place.seed, place.step, modes=("input",), prob=self.prob).mode == "none":
            return unmixed(batch_size)
        where = generator(place.seed, Stream.REGION, *place[1:]).random((batch_size, 2), dtype=np.float32)
        lam = torch.full((batch_size,), 1 - self.side**2, device="cpu")
        extra = {"place": torch.from_numpy(where)}
        return MixParams("input", lam, torch.arange(batch_size, device="cpu"), mixer=self.name, extra=extra)

    def mix(self, images: Tensor, targets: Tensor, params: MixParams, net: HookedNetwork) -> Mixed:
        """Fill the holes."""
        height, width = images.shape[2:]
        hole = inside(hole_around(params.extra["place"], (1 - params.lam).sqrt(), height, width), height, width)
        return Mixed(torch.where(hole.unsqueeze(1), self.fill, images), targets)
