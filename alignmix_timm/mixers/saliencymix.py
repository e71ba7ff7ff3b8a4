"""SaliencyMix: CutMix whose box lies where the partner catches the eye (Uddin et al., https://arxiv.org/abs/2006.01791)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..functional import mix_targets
from ..params import MixParams
from .contract import HookedNetwork, Mixed
from .cutmix import box_around, paste
from .pairs import PairMixer
from .pixels import check_normalisation, denormalised, stretched

NEIGHBOURHOODS = (12, 24, 28, 48, 56, 112)
GREY_WEIGHTS = (9798, 19235, 3735)  # of red, green and blue in 2 ** 15: OpenCV's 0.299, 0.587, 0.114


def grey(images: Tensor) -> Tensor:
    """Intensity of RGB images by OpenCV's integer weights; the mean of any other number of channels.

    Args:
        images: [B, C, H, W] uint8.

    Returns:
        [B, H, W] int32 in [0, 255].
    """
    channels = images.shape[1]
    if channels != 3:
        return (2 * images.sum(1, dtype=torch.int32) + channels) // (2 * channels)
    red, green, blue = (weight * one for weight, one in zip(GREY_WEIGHTS, images.int().unbind(1), strict=True))
    return (red + green + blue + (1 << 14)) >> 15


def smooth(intensity: Tensor) -> Tensor:
    """Gaussian blur of 3 x 3 pixels with the border mirrored, rounded: [B, H, W] int32 to the like."""
    for axis in (1, 2):
        size = intensity.shape[axis]
        places = torch.arange(size, device=intensity.device)
        before = (places - 1).abs().clamp(max=size - 1)
        after = (size - 1 - (size - 2 - places).abs()).clamp(min=0)
        intensity = intensity.index_select(axis, before) + 2 * intensity + intensity.index_select(axis, after)
    return (intensity + 8) >> 4


def surround_means(intensity: Tensor, integral: Tensor, reach: int) -> Tensor:
    """Mean of the pixels around each, itself left out: from ``reach - 1`` before it to ``reach`` after it.

    Args:
        intensity: [B, H, W] int32.
        integral: Sums of it over all pixels above and to the left, [B, H + 1, W + 1] int32.
        reach: In rows and columns, clipped to the image.

    Returns:
        [B, H, W] fp32; the pixel itself where there is nothing else.
    """
    extents: list[Tensor] = []
    for axis in (1, 2):
        size = intensity.shape[axis]
        places = torch.arange(size, device=intensity.device)
        low, high = (places - reach + 1).clamp(min=0), (places + reach + 1).clamp(max=size)
        integral = integral.index_select(axis, high) - integral.index_select(axis, low)
        extents.append(high - low)
    count = extents[0][:, None] * extents[1] - 1
    return torch.where(count > 0, (integral - intensity).float() / count, intensity)


def fine_grained_saliency(images: Tensor) -> Tensor:
    """Where images catch the eye: centre-surround differences of the intensity (Montabone and Soto, 2010).

    Bit for bit OpenCV's ``StaticSaliencyFineGrained``, of all images at once, with one integral image for all scales.
    As there, the last sum wraps modulo 256. Flat images are 0.

    Args:
        images: [B, 3, H, W] uint8 RGB, or with another number of channels, whose mean is taken.

    Returns:
        [B, H, W] uint8.
    """
    intensity = smooth(smooth(grey(images)))
    integral = F.pad(intensity, (1, 0, 1, 0)).cumsum(1, dtype=torch.int32).cumsum(2, dtype=torch.int32)
    brighter, darker = torch.zeros_like(intensity), torch.zeros_like(intensity)
    for reach in NEIGHBOURHOODS:
        difference = intensity - surround_means(intensity, integral, reach)
        brighter += difference.clamp(min=0).int()
        darker += difference.neg().clamp(min=0).int()
    scaled = [_floor_scaled(one, _peak(one)) for one in (brighter, darker)]
    return _floor_scaled(scaled[0] + scaled[1], torch.maximum(*map(_peak, scaled))).bitwise_and(255).byte()


def _peak(values: Tensor) -> Tensor:
    return values.amax((1, 2), keepdim=True).clamp(min=1)


def _floor_scaled(values: Tensor, peak: Tensor) -> Tensor:
    return 255 * values // peak


def most_salient(images: Tensor, mean: Sequence[float] | None = None, std: Sequence[float] | None = None) -> Tensor:
    """The most salient pixel of normalised images, the first of equal ones.

    Args:
        images: [B, C, H, W], floating.
        mean, std: By which they were normalised; without them each image is stretched from its least to its largest
            value, which keeps the order of contrasts.

    Returns:
        The middle of that pixel as shares of height and width, in [0, 1), [B, 2] fp32.
    """
    pixels = stretched(images) if mean is None or std is None else denormalised(images, mean, std)
    saliency = fine_grained_saliency((pixels * 255).round().clamp(0, 255).byte())
    height, width = saliency.shape[1:]
    first = saliency.flatten(1).int().argmax(1)
    return torch.stack(((first // width + 0.5) / height, (first % width + 0.5) / width), 1)


@dataclass(frozen=True)
class SaliencyMix(PairMixer):
    """Pastes a box of one image into another, as CutMix, around the pixel of its source that catches the eye the most.

    That pixel is the maximum of a fine-grained saliency map (Montabone and Soto), which needs no network. As in the
    authors' code one image of the batch places the box of all, at the same coordinates in source and target; with
    ``per_example`` each source places its own, as section 3.2 of their paper describes.

    Defaults are those of that code for ImageNet; for CIFAR it mixes half of the batches (``prob=0.5``). The AlignMix
    paper trains with ``alpha=2``. The released code hands normalised floats to OpenCV, which reads them as if they were
    bytes, so that its boxes lie where chance puts them: ``saliency_input="as_released"`` is that, with uniform centres,
    and so CutMix; the default is what the paper means. Images arrive normalised. Without ``mean`` and ``std`` each is
    stretched to 0 to 255, whatever the normalisation; with them the bytes are those of the image.

    The map of one image for each batch costs little beside a step; ``per_example`` takes one of every image. Both are
    computed on the device, which is not waited for. It goes with every network.

    Args:
        alpha: Share of the image that is left, before clipping, ~ Beta(alpha, alpha).
        prob, per_example: See :class:`PairMixer`.
        saliency_input: ``"uint8"``, or ``"as_released"``.
        mean, std: By which the images were normalised, one number for each channel.

    Raises:
        ValueError: an option outside its range.
    """

    name: ClassVar[str] = "saliencymix"

    saliency_input: Literal["uint8", "as_released"] = "uint8"
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.saliency_input not in ("uint8", "as_released"):
            raise ValueError(f"saliency_input must be 'uint8' or 'as_released', got {self.saliency_input!r}.")
        check_normalisation(self.mean, self.std)

    def _draw_extra(self, rng: np.random.Generator, batch_size: int, count: int) -> dict[str, np.ndarray]:
        """Whose partner places the box, that of the largest; or, as released, the places themselves."""
        if self.saliency_input == "uint8":
            return {"turn": rng.random(batch_size, dtype=np.float32)}
        return {"place": rng.random((count, 2), dtype=np.float32)}

    def mix(self, images: Tensor, targets: Tensor, params: MixParams, net: HookedNetwork) -> Mixed:
        """Paste, and mix the targets by area."""
        height, width = images.shape[2:]
        box = box_around(self._centres(images, params), params.lam, height, width)
        images, lam = paste(images, params.perm, box)
        return Mixed(images, mix_targets(targets, params.perm, lam))

    def _centres(self, images: Tensor, params: MixParams) -> Tensor:
        """Of the boxes, as shares of height and width, [B, 2]."""
        if "place" in params.extra:
            return params.extra["place"]
        if self.per_example:
            return most_salient(images[params.perm], self.mean, self.std)
        source = params.perm[params.extra["turn"].argmax(0, keepdim=True)]
        return most_salient(images[source], self.mean, self.std).expand(len(images), 2)
