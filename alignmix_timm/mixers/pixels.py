"""Normalised images, and the pixels that they were."""

import math
from collections.abc import Iterator, Sequence
from numbers import Real

import torch
from torch import Tensor

Channels = Sequence[float]


def check_normalisation(mean: Channels | None, std: Channels | None) -> None:
    """Raise ValueError for a mean and standard deviation that no images can have."""
    if (mean is None) != (std is None):
        raise ValueError(f"mean and std must be given together, or neither, got mean={mean} and std={std}.")
    for name, values in (("mean", mean), ("std", std)):
        if values is None:
            continue
        if not isinstance(values, list | tuple) or not values or not all(map(_is_finite, values)):
            raise ValueError(f"{name} must be a list of one finite number for each channel, got {values!r}.")
        if name == "std" and min(values) <= 0:
            raise ValueError(f"std must be > 0, got {values}.")


def _is_finite(value: object) -> bool:
    return isinstance(value, Real) and math.isfinite(value)


def denormalised(images: Tensor, mean: Channels, std: Channels) -> Tensor:
    """Pixels in [0, 1] that were normalised to ``(pixels - mean) / std``, in fp32.

    Args:
        images: [B, C, H, W].
        mean, std: One number for each channel.

    Raises:
        ValueError: there are not as many numbers as channels.
    """
    return torch.stack([one.float() * scale + shift for one, shift, scale in _channels(images, mean, std)], 1)


def normalised(pixels: Tensor, mean: Channels, std: Channels) -> Tensor:
    """The inverse of :func:`denormalised`."""
    return torch.stack([(one - shift) / scale for one, shift, scale in _channels(pixels, mean, std)], 1)


def _channels(images: Tensor, mean: Channels, std: Channels) -> Iterator[tuple[Tensor, float, float]]:
    """Each channel with its numbers, which stay in Python: no copy to the device that one would wait for."""
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != images.shape[1]:
            raise ValueError(f"{name} must be one number for each of {images.shape[1]} channels, got {list(values)}.")
    return zip(images.unbind(1), mean, std, strict=True)


def stretched(images: Tensor) -> Tensor:
    """Each image from 0 at its least value to 1 at its largest, over all channels; 0 where it is flat; fp32."""
    values = images.float()
    least, most = values.amin((1, 2, 3), keepdim=True), values.amax((1, 2, 3), keepdim=True)
    return (values - least) / (most - least).where(most > least, 1.0)
