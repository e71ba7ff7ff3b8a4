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
    return float(confidence_gaps(logits, labels, num_bins).abs().sum() / len(labels))


def confidence_gaps(logits: Tensor, labels: Tensor, num_bins: int = 15) -> Tensor:
    """Sum of (right or not) - confidence over the examples of each bin, [num_bins] float64; sums of batches add up."""
    confidence, prediction = logits.double().softmax(1).max(1)
    gap = prediction.eq(labels).double() - confidence
    bins = (confidence * num_bins).ceil().long().clamp(1, num_bins) - 1
    return torch.zeros(num_bins, dtype=torch.float64, device=gap.device).index_add_(0, bins, gap)
