"""StyleCutMix: a box of one image in another, each in a style between both (Hong et al., CVPR 2021, section 3.3)."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ..functional import mix_targets
from ..params import MixParams, check_draw_options
from .contract import HookedNetwork, Mixed
from .cutmix import box_around, inside
from .style_codec import adain
from .stylemix import StyleMixer


def overlay(
    own: Tensor, other: Tensor, own_restyled: Tensor, other_restyled: Tensor, box: Tensor, style: Tensor
) -> Tensor:
    """Own content inside the box and the other's outside, in both styles.

    Args:
        own, other: The images and their partners, [B, C, H, W].
        own_restyled, other_restyled: Each in the style of the other.
        box: Which pixels lie inside, [B, H, W] bool.
        style: Share of the style of ``own``, [B].
    """
    style = style[:, None, None, None]
    return torch.where(
        box.unsqueeze(1), style * own + (1 - style) * own_restyled, (1 - style) * other + style * other_restyled
    )


def class_distances(styles: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """How much classes differ in style: mean square of the differences of their mean style vectors.

    Args:
        styles: Of images, [N, D], as :meth:`alignmix_timm.mixers.style_codec.AdaINCodec.styles` gives them.
        labels: Of the images, [N] int64; each class has one at least.
        num_classes: C.

    Returns:
        [C, C], for ``numpy.savetxt(path, ..., delimiter=",")``.
    """
    means = torch.stack([styles[labels == label].mean(0) for label in range(num_classes)])
    return (means[:, None] - means).square().mean(2)


@functools.lru_cache(maxsize=2)
def read_distances(path: str, device: torch.device) -> Tensor:
    """A matrix of class distances, [C, C] fp32, from text with commas; those of a class to itself are 2 larger.

    Raises:
        ValueError: the file cannot be read, or holds no square matrix of numbers >= 0.
    """
    try:
        found = np.loadtxt(Path(path), delimiter=",", dtype=np.float32, ndmin=2)
    except (OSError, ValueError) as error:
        raise ValueError(f"distances must be a text file of numbers with commas between them, got {path}.") from error
    if found.shape[0] != found.shape[1] or not (found >= 0).all():
        raise ValueError(f"distances must be a square matrix of numbers >= 0, got {path} of shape {found.shape}.")
    return torch.from_numpy(found + 2 * np.eye(len(found), dtype=np.float32)).to(device)


@dataclass(frozen=True, kw_only=True)
class StyleCutMix(StyleMixer):
    """Puts a box of the image itself over its partner, and mixes the styles of both inside the box and outside.

    Each image is also decoded in the style of the other (AdaIN); ``gamma`` is how much of it stays as it is, and at 1
    nothing but CutMix is left. Targets have the share ``ratio * area + (1 - ratio) * (gamma * area + (1 - gamma) *
    style)``, to which the two terms of the paper's loss add up.

    Defaults are those of the authors' code for CIFAR (their ``prob``, ``r``, ``alpha2``); the AlignMix paper trains
    with ``alpha=2``. With ``distances`` gamma is that of the pair of classes, ``tanh(distance / delta)``: the authors'
    Auto-gamma, with delta 3 for CIFAR-100 and 1 for CIFAR-10, whose matrices stand in their repository. Images of one
    class are 2 further apart there, and here. It needs a codec: AdaIN's weights are files that you bring.

    A mixed batch costs one pass of the VGG-19 encoder and two of the decoder at ``size`` pixels, without gradients. It
    goes with every network, but needs images of three channels with AdaIN's weights.

    Args:
        alpha: Area of the box, before clipping, and share of the style ~ Beta(alpha, alpha) each.
        gamma_alpha: gamma ~ Beta(gamma_alpha, gamma_alpha), without ``distances``.
        distances: File of the distances between classes in style, rows of numbers with commas: see
            :func:`class_distances`.
        delta: Scale of the distances, > 0.
        others: See :class:`StyleMixer`.

    Raises:
        ValueError: see :class:`StyleMixer`; distances that cannot be read.
    """

    name: ClassVar[str] = "stylecutmix"

    prob: float = 0.5
    gamma_alpha: float = 0.8
    distances: str | None = None
    delta: float = 3.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("gamma_alpha", "delta"):
            try:
                check_draw_options(getattr(self, name))
            except ValueError as error:
                raise ValueError(f"{name} must be a finite number > 0, got {getattr(self, name)!r}.") from error
        if self.distances is not None:
            read_distances(self.distances, torch.device("cpu"))

    def _draw_extra(self, rng: np.random.Generator, batch_size: int, count: int) -> dict[str, np.ndarray]:
        """The place of the box, whose area is lam, the share of the style, and gamma."""
        drawn: dict[str, np.ndarray] = {
            "place": rng.random((count, 2), dtype=np.float32),
            "style": rng.beta(self.alpha, self.alpha, count),
        }
        if self.distances is None:
            drawn["gamma"] = rng.beta(self.gamma_alpha, self.gamma_alpha, count)
        return drawn

    @torch.no_grad()
    def mix(self, images: Tensor, targets: Tensor, params: MixParams, net: HookedNetwork) -> Mixed:
        """Encode, restyle, decode, and put together; mix the targets."""
        perm, style, gamma = params.perm, params.extra["style"], self._gamma(targets, params)
        pixels = self._pixels(images)
        features = self._encoded(pixels)
        stay, others = gamma[:, None, None, None], features[perm]
        own = torch.lerp(self._decoded(adain(features, others), pixels), pixels, stay)
        other = torch.lerp(self._decoded(adain(others, features), pixels), pixels[perm], stay)
        height, width = pixels.shape[2:]
        box = inside(box_around(params.extra["place"], 1 - params.lam, height, width), height, width)
        mixed = overlay(pixels, pixels[perm], own, other, box, style)
        area = box.sum((1, 2)) / (height * width)
        lam = torch.lerp(torch.lerp(style, area, gamma), area, self.ratio)
        return Mixed(self._images(mixed, images), mix_targets(targets, perm, lam))

    def _gamma(self, targets: Tensor, params: MixParams) -> Tensor:
        """Of each pair, [B]: drawn, or by the distance of their classes."""
        if self.distances is None:
            return params.extra["gamma"]
        distances = read_distances(self.distances, targets.device)
        if len(distances) != targets.shape[1]:
            raise ValueError(
                f"distances must be between the {targets.shape[1]} classes, got {self.distances} with {len(distances)}."
            )
        label = targets.argmax(1)
        return torch.tanh(distances[label, label[params.perm]] / self.delta)
