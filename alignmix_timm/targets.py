"""Labels of any kind as dense targets, and the loss on them."""

from collections.abc import Callable
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
    own = getattr(model, "num_classes", getattr(model, "num_labels", None))  # the latter in transformers
    found: Any = own if given is None else given
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


class DenseCrossEntropy(nn.Module):
    """Cross-entropy with dense targets; binary, of the one logit, where there is a single class."""

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The mean loss of logits and float targets, [B, C].

        Raises:
            ValueError: binary targets outside [0, 1]. Looked at on the CPU only.
        """
        if logits.shape[1] > 1:
            return F.cross_entropy(logits, targets)
        if targets.device.type == "cpu" and not torch.compiler.is_compiling():
            wrong = targets[(targets < 0) | (targets > 1)]
            if wrong.numel():
                raise ValueError(f"labels of a model with one class must be in [0, 1], got {wrong[0]:g}.")
        return F.binary_cross_entropy_with_logits(logits, targets)


class SoftmaxBinaryCrossEntropy(nn.Module):
    """Binary cross-entropy of the probabilities of a softmax, as Manifold mixup, PuzzleMix and Co-Mixup are released.

    Its gradient is 1 / C to 2 / C of that of the cross-entropy, so against the same weight decay it counts for less.
    """

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The mean loss over examples and classes of logits and float targets in [0, 1], [B, C]."""
        with torch.autocast(logits.device.type, enabled=False):  # which does not take probabilities
            return F.binary_cross_entropy(logits.float().softmax(1), targets.float())


def dense_loss(criterion: Callable[[Tensor, Tensor], Tensor], logits: Tensor, targets: Tensor) -> Tensor:
    """The loss of logits and dense float targets, [B, C].

    Raises:
        ValueError: the criterion takes class indices, or has no gradient. Its own errors pass as they are.
    """
    try:
        loss = criterion(logits, targets)
    except Exception as error:
        if _takes_indices(criterion, logits, targets):
            raise ValueError(
                f"criterion must take dense float targets [B, C], got {_name(criterion)}, which takes class indices. "
                "Use CrossEntropyLoss or timm.loss.SoftTargetCrossEntropy, with AlignMixModel(label_smoothing=...)."
            ) from error
        raise
    if logits.requires_grad and not getattr(loss, "requires_grad", False):
        raise ValueError(f"criterion must be differentiable by the logits, and the loss of {_name(criterion)} is not.")
    return loss


def _name(criterion: object) -> str:
    return getattr(criterion, "__name__", type(criterion).__name__)


@torch.no_grad()
def _takes_indices(criterion: Callable[[Tensor, Tensor], Tensor], logits: Tensor, targets: Tensor) -> bool:
    try:
        criterion(logits, targets.argmax(1))
    except Exception:
        return False
    return True


def check_criterion(criterion: object, num_classes: int) -> None:
    """Raise ValueError for a loss that is the same whatever the logits are: that of a softmax of one class."""
    if num_classes == 1 and isinstance(criterion, nn.CrossEntropyLoss | SoftmaxBinaryCrossEntropy):
        raise ValueError(
            f"criterion must not be {type(criterion).__name__} where num_classes is 1: it is the same for every logit. "
            "Leave it out for binary cross-entropy, or use 2 classes."
        )
