"""Calibration: how far confidence is from accuracy (AlignMix, section 4.3 and Table 7)."""

import torch
from torch import Tensor


def expected_calibration_error(logits: Tensor, labels: Tensor, num_bins: int = 15) -> float:
    """Expected calibration error (Guo et al., 2017): mean of |accuracy - confidence| over equal bins of confidence.

    Args:
        logits: [N, C].
        labels: Class indices, [N].
        num_bins: Bins (0, 1/num_bins], ...

    Returns:
        The error in [0, 1], bins weighted by their number of examples.

    Raises:
        ValueError: no examples, or shapes disagree.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or not len(labels):
        raise ValueError(f"logits must be [N, C] and labels [N], got {tuple(logits.shape)} and {tuple(labels.shape)}.")
    return calibration_error(confidence_bins(logits, labels, num_bins))


def confidence_bins(logits: Tensor, labels: Tensor, num_bins: int = 15) -> Tensor:
    """Sums over the examples of each bin of confidence; those of batches and processes add up.

    Args and bins as :func:`expected_calibration_error`.

    Returns:
        [3, num_bins] float64: examples, those classified correctly, and the sum of their confidences.
    """
    confidence, prediction = logits.double().softmax(1).max(1)
    values = torch.stack([torch.ones_like(confidence), prediction.eq(labels).double(), confidence])
    bins = (confidence * num_bins).ceil().long().clamp(1, num_bins) - 1
    return torch.zeros(3, num_bins, dtype=torch.float64, device=logits.device).index_add_(1, bins, values)


def calibration_error(bins: Tensor) -> float:
    """Expected calibration error in [0, 1] of the sums [3, num_bins] that :func:`confidence_bins` gives."""
    examples, correct, confidence = bins
    return float((correct - confidence).abs().sum() / examples.sum())
