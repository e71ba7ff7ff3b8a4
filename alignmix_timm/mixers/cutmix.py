"""CutMix: a box of one image, pasted into another (Yun et al., https://arxiv.org/abs/1905.04899)."""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ..functional import mix_targets
from ..params import MixParams
from .contract import HookedNetwork, Mixed
from .pairs import PairMixer


def box_around(centre: Tensor, lam: Tensor, height: int, width: int) -> Tensor:
    """Boxes whose sides are ``sqrt(1 - lam)`` of the image's, clipped to it (Yun et al., section 3.1, eq. 2).

    Args:
        centre: Row and column of each centre, as shares of height and width in [0, 1), [B, 2].
        lam: Share of the image that is left, before clipping, [B].
        height, width: Of the images, in pixels.

    Returns:
        First row, row after the last, first column, column after the last, [B, 4] int64.
    """
    spans: list[Tensor] = []
    for axis, size in enumerate((height, width)):
        side, middle = ((1 - lam).sqrt() * size).long(), (centre[:, axis] * size).long()
        spans += [(middle - side // 2).clamp(0, size), (middle + (side + 1) // 2).clamp(0, size)]
    return torch.stack(spans, 1)


def box_within(place: Tensor, sides: Tensor, height: int, width: int) -> Tensor:
    """Boxes of given sides, wholly within the image, as timm's ``cutmix_minmax``.

    Args:
        place: Of the box among the possible ones, from top left to bottom right, in [0, 1), [B, 2].
        sides: As shares of the image's, in [0, 1], [B, 2].
        height, width: Of the images, in pixels.

    Returns:
        As :func:`box_around`.
    """
    spans: list[Tensor] = []
    for axis, size in enumerate((height, width)):
        side = (sides[:, axis] * size).long()
        low = (place[:, axis] * (size - side + 1)).long()
        spans += [low, low + side]
    return torch.stack(spans, 1)


def inside(box: Tensor, height: int, width: int) -> Tensor:
    """Which pixels lie in the box of each image, [B, H, W] bool.

    Args:
        box: [B, 4], see :func:`box_around`.
        height, width: Of the images, in pixels.
    """
    rows, columns = (torch.arange(side, device=box.device) for side in (height, width))
    top, bottom, left, right = box.T.unsqueeze(2)
    return ((rows >= top) & (rows < bottom))[:, :, None] & ((columns >= left) & (columns < right))[:, None, :]


def paste(images: Tensor, perm: Tensor, box: Tensor) -> tuple[Tensor, Tensor]:
    """Paste each partner into the box of its image.

    Args:
        images: [B, C, H, W].
        perm: Partner of each image, [B].
        box: [B, 4], see :func:`box_around`.

    Returns:
        The images, and the share of each that was left, [B] fp32: ``1 - area / (H * W)``.
    """
    height, width = images.shape[2:]
    top, bottom, left, right = box.T
    mixed = torch.where(inside(box, height, width).unsqueeze(1), images[perm], images)
    return mixed, 1 - ((bottom - top) * (right - left)).float() / (height * width)


@dataclass(frozen=True)
class CutMix(PairMixer):
    """CutMix. Defaults: those of its paper's code for ImageNet; the AlignMix paper trains with ``alpha=2``.

    The share of the image that is left ~ Beta(alpha, alpha); targets follow the area after clipping. The paper's
    ``prob`` is 0.5 for CIFAR.

    Args:
        alpha, prob, per_example: See :class:`PairMixer`.
        minmax: Least and largest side of the box as shares of the image's, in place of alpha.

    Raises:
        ValueError: an option outside its range.
    """

    name: ClassVar[str] = "cutmix"

    minmax: Sequence[float] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.minmax is not None and not _are_shares(self.minmax):
            raise ValueError(f"minmax must be two shares in [0, 1], the least first, got {self.minmax}.")

    def _draw_extra(self, rng: np.random.Generator, batch_size: int, count: int) -> dict[str, np.ndarray]:
        """The places of the boxes as shares of the image, and their sides, if not by lam."""
        where, extent = np.split(rng.random((count, 4), dtype=np.float32), 2, axis=1)
        if self.minmax is None:
            return {"place": where}
        least, most = self.minmax
        return {"place": where, "sides": least + extent * (most - least)}

    def mix(self, images: Tensor, targets: Tensor, params: MixParams, net: HookedNetwork) -> Mixed:
        """Paste, and mix the targets by area."""
        height, width = images.shape[2:]
        if "sides" in params.extra:
            box = box_within(params.extra["place"], params.extra["sides"], height, width)
        else:
            box = box_around(params.extra["place"], params.lam, height, width)
        images, lam = paste(images, params.perm, box)
        return Mixed(images, mix_targets(targets, params.perm, lam))


def _are_shares(minmax: object) -> bool:
    if not isinstance(minmax, list | tuple) or len(minmax) != 2 or not all(isinstance(one, Real) for one in minmax):
        return False
    return 0 <= minmax[0] <= minmax[1] <= 1
