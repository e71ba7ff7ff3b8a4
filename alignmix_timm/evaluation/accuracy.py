"""Accuracy, loss and calibration as sums, which add up exactly over batches and processes."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .calibration import BINS, bin_lists, calibration_error, confidence_bins


def no_scores() -> Tensor:
    """The sums over no rows."""
    return torch.zeros(4 + 3 * BINS, dtype=torch.float64)


def scores(logits: Tensor, labels: Tensor) -> Tensor:
    """Sums over a batch: rows, right at top-1, right at top-5, loss, and those of each bin of confidence.

    Args:
        logits: [N, C].
        labels: Class indices, [N].

    Returns:
        [4 + 3 * 15] float64, to be added up and given to :func:`summary` and :func:`reliability`.
    """
    if logits.device.type == "mps":  # which has no float64
        logits, labels = logits.cpu(), labels.cpu()
    logits = logits.double()
    right = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
    loss = F.cross_entropy(logits, labels, reduction="sum")
    head = torch.stack([torch.ones_like(labels).sum(), right[:, 0].sum(), right.any(1).sum(), loss])
    return torch.cat([head, confidence_bins(logits, labels, BINS).flatten()])


def summary(sums: Tensor) -> dict[str, float]:
    """Rows, top-1 and top-5 accuracy and expected calibration error in percent, and the mean loss.

    Raises:
        ValueError: no rows.
    """
    rows = float(sums[0])
    if not rows:
        raise ValueError("there is no row to evaluate.")
    top1, top5, loss = (sums[1:4] / rows).tolist()
    ece = float(calibration_error(sums[4:].view(3, BINS)))
    return {"rows": rows, "top1": 100 * top1, "top5": 100 * top5, "loss": loss, "ece": 100 * ece}


def reliability(sums: Tensor) -> dict[str, list[float]]:
    """The sums over each bin of confidence, as :func:`.calibration.bin_lists` gives them."""
    return bin_lists(sums[4:].view(3, BINS))
