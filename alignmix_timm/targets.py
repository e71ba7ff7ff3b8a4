"""Labels of any kind as dense targets."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def dense_targets(labels: Tensor, num_classes: int, smoothing: float = 0.0) -> Tensor:
    """Class indices, one-hot, soft or multi-label targets as floats, [B, C].

    Args:
        labels: Class indices, [B] integer; or targets, [B, C] of any dtype, kept as they are. With C = 1, [B] holds
            the binary targets themselves.
        num_classes: C.
        smoothing: Label smoothing in [0, 1) for class indices, as in timm: ``(1 - s) * one_hot + s / C``.

    Raises:
        ValueError: no tensor, a shape that is neither, or an index outside [0, C). Indices are looked at on the CPU
            only: on a GPU that would wait for the device; give ``AlignMixCollator`` the number of classes instead.
    """
    check_smoothing(smoothing)
    if not isinstance(labels, Tensor):
        raise ValueError(f"labels must be a tensor of class indices or targets, got {type(labels).__name__}.")
    if num_classes == 1 and labels.ndim == 1:
        return labels.unsqueeze(1).float()
    if labels.ndim == 2 and labels.shape[1] == num_classes:
        return labels.float()
    if labels.ndim != 1 or labels.is_floating_point():
        raise ValueError(
            f"labels must be class indices [B] or targets [B, {num_classes}], got {labels.dtype} {tuple(labels.shape)}."
        )
    check_labels(labels, num_classes)
    off = smoothing / num_classes
    return F.one_hot(labels.long(), num_classes).float().mul_(1 - smoothing).add_(off)


def check_smoothing(smoothing: float) -> None:
    """Raise ValueError for label smoothing outside [0, 1)."""
    if not 0 <= smoothing < 1:
        raise ValueError(f"label_smoothing must be in [0, 1), got {smoothing}.")


def check_num_classes(model: nn.Module, given: int | None) -> int:
    """The number of classes that was given, or that of the model; ValueError if there is none."""
    found: Any = getattr(model, "num_classes", None) if given is None else given
    if not isinstance(found, int) or found < 1:
        raise ValueError(f"num_classes must be >= 1, got {found}. Create the model with num_classes=..., or pass it.")
    return found


def check_labels(labels: Tensor, num_classes: int) -> None:
    """Raise ValueError for CPU class indices outside [0, num_classes)."""
    if labels.device.type == "cpu" and labels.numel() and not torch.compiler.is_compiling():
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= num_classes:
            wrong = low if low < 0 else high
            raise ValueError(
                f"labels must be class indices in [0, {num_classes}), got {wrong}. Check the number of classes of the "
                "model, and that the labels start at 0."
            )
