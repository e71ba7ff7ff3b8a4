"""Normalised images, and the pixels that they were."""

import math
from collections.abc import Iterator, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

Channels = Sequence[float]


def check_normalisation(mean: object, std: object) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and standard deviation of each channel as plain numbers, from any sequence of them; None if both are None.

    Raises:
        ValueError: one is missing, or no images can have them.
    """
    if mean is None and std is None:
        return None
    means, deviations = _finite_numbers(mean), _finite_numbers(std)
    if not means or len(means) != len(deviations) or min(deviations) <= 0:
        raise ValueError(
            "mean and std must be given together, each a list of one finite number for each channel, those of std > 0, "
            f"got mean={mean} and std={std}. Those of ImageNet are mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, "
            "0.225]."
        )
    return means, deviations


def _finite_numbers(values: object) -> tuple[float, ...]:
    """Those of a list, tuple, array or tensor; none if anything else is in it."""
    plain = _plain(values)
    found = [_plain(value) for value in plain] if isinstance(plain, Sequence) else []
    numbers = [float(one) for one in found if isinstance(one, Real) and math.isfinite(one)]
    return tuple(numbers) if len(numbers) == len(found) else ()


def _plain(value: Any) -> Any:
    """Arrays and tensors as lists, their scalars as numbers of Python."""
    return value.tolist() if hasattr(value, "tolist") else value


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
