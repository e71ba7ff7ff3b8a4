"""Bytes of images to what a network reads: floats, normalised by the mean and standard deviation of each channel."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

Statistics = tuple[tuple[float, ...], tuple[float, ...]]


def statistics_of(net: nn.Module, channels: int) -> Statistics | None:
    """Mean and standard deviation of each channel, of pixels in [0, 1], as timm's config of a network has them.

    Those of a model for colour images are averaged for another number of channels. None where it has no config.
    """
    config: Any = getattr(net, "pretrained_cfg", None) or {}
    if not (config.get("mean") and config.get("std")):
        return None
    return for_channels(config["mean"], channels), for_channels(config["std"], channels)


def for_channels(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """Means or standard deviations of each channel; their average where they are of another number of channels."""
    return tuple(values) if len(values) == channels else (sum(values) / len(values),) * channels


def normalize(
    pixels: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    memory_format: torch.memory_format = torch.contiguous_format,
) -> Tensor:
    """Bytes to floats, where the bytes are: bit for bit what torchvision's ToTensor and Normalize make of an image.

    Args:
        pixels: [B, C, H, W], uint8.
        mean, std: Of each channel, for pixels in [0, 1].
        memory_format: Of the result.

    Returns:
        [B, C, H, W], of the default dtype.
    """
    images = pixels.to(torch.get_default_dtype(), memory_format=memory_format).div_(255)
    average, deviation = (  # without a wait for the device
        torch.tensor(values).to(images.device, non_blocking=True).view(-1, 1, 1) for values in (mean, std)
    )
    return images.sub_(average).div_(deviation)
