"""Calibration: how far confidence is from accuracy (AlignMix, section 4.3, Table 7 and Figure 4).

Confidence is the maximum softmax probability. All that depends on bins of confidence comes from the same sums.

The OE column of the paper's Table 7 is not comparable: by the formula of Thulasidasan et al., the OE of a network that
is overconfident in every bin is its ECE times a mean of confidence, and printed values are 4 to 14 % of the ECE.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .metric import Metric

_ECE = (
    "Expected calibration error (Guo et al., 2017): mean over images of |accuracy - confidence| of their bin, %; {} "
    "bins of confidence of equal width."
)
_OE = (
    "Overconfidence error (Thulasidasan et al., 2019): mean over images of confidence * max(confidence - accuracy, 0) "
    "of their bin, %; {} bins of confidence of equal width."
)
BINS, FEWER_BINS = 15, 10  # those of Guo et al.; the paper does not state its own
METRICS = (
    Metric("accuracy", "accuracy %", "higher", "Top-1 accuracy, %."),
    Metric("confidence", "confidence %", None, "Mean maximum softmax probability, %."),
    Metric("ece", "ECE %", "lower", _ECE.format(BINS)),
    Metric("oe", "OE %", "lower", _OE.format(BINS)),
    Metric("nll", "NLL", "lower", "Mean negative log-likelihood of the true class, in nats."),
    Metric(
        "brier", "Brier", "lower", "Mean over images of the sum over classes of (probability - one-hot)^2, in [0, 2]."
    ),
    Metric("ece_10", "ECE, 10 bins %", "lower", _ECE.format(FEWER_BINS)),
    Metric("oe_10", "OE, 10 bins %", "lower", _OE.format(FEWER_BINS)),
)


def row_scores(logits: Tensor, labels: Tensor) -> Tensor:
    """What calibration needs of each image: confidence, whether it is correct, negative log-likelihood, Brier score.

    Args:
        logits: [N, C].
        labels: Class indices, [N].

    Returns:
        [N, 4] float64 on the CPU, to be given to :func:`summary` and, by columns, to :func:`bin_sums`.

    Raises:
        ValueError: shapes disagree, less than two classes, a label outside of them, or logits that are NaN or infinite.
    """
    _check(logits, labels)
    if logits.shape[1] < 2:
        raise ValueError("logits must be of at least 2 classes, got 1: the softmax of one class is always 1.")
    logits, labels = logits.detach().cpu().double(), labels.cpu()
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < logits.shape[1]:
        raise ValueError(
            f"labels must be in 0 ... {logits.shape[1] - 1}, the classes of the logits, got {int(labels.min())} to "
            f"{int(labels.max())}."
        )
    probabilities = logits.softmax(1)
    if bool(probabilities.isnan().any()):
        raise ValueError("logits must be finite, got NaN or infinity: check the weights of the model.")
    confidence, prediction = probabilities.max(1)
    loss = F.cross_entropy(logits, labels, reduction="none")
    brier = (probabilities - F.one_hot(labels, logits.shape[1])).square().sum(1)
    return torch.stack([confidence, prediction.eq(labels).double(), loss, brier], 1)


def summary(rows: Tensor) -> dict[str, float]:
    """The values of :data:`METRICS`, from the rows [N, 4] that :func:`row_scores` gives.

    Raises:
        ValueError: no rows.
    """
    if not len(rows):
        raise ValueError("there is no image to measure calibration on.")
    confidence, correct, loss, brier = rows.unbind(1)
    values = {"accuracy": 100 * correct.mean(), "confidence": 100 * confidence.mean()}
    for suffix, num_bins in (("", BINS), (f"_{FEWER_BINS}", FEWER_BINS)):
        sums = bin_sums(confidence, correct, num_bins)
        values["ece" + suffix] = 100 * calibration_error(sums)
        values["oe" + suffix] = 100 * overconfidence_error(sums)
    values |= {"nll": loss.mean(), "brier": brier.mean()}
    return {metric.key: float(values[metric.key]) for metric in METRICS}


def expected_calibration_error(logits: Tensor, labels: Tensor, num_bins: int = BINS) -> float:
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
    _check(logits, labels)
    if not len(labels):
        raise ValueError("there is no image to measure calibration on.")
    return float(calibration_error(confidence_bins(logits, labels, num_bins)))


def confidence_bins(logits: Tensor, labels: Tensor, num_bins: int = BINS) -> Tensor:
    """:func:`bin_sums` of logits; arguments as :func:`expected_calibration_error`."""
    confidence, prediction = logits.double().softmax(1).max(1)
    return bin_sums(confidence, prediction.eq(labels), num_bins)


def bin_sums(confidence: Tensor, correct: Tensor, num_bins: int = BINS) -> Tensor:
    """Sums over the examples of each bin of confidence; those of batches and processes add up.

    Args:
        confidence: In [0, 1], [N] float64.
        correct: Whether the example is classified correctly, [N].
        num_bins: Bins (0, 1/num_bins], ...; 0 is in the first.

    Returns:
        [3, num_bins] float64: examples, those classified correctly, and the sum of their confidences.

    Raises:
        ValueError: less than one bin.
    """
    if num_bins < 1:
        raise ValueError(f"num_bins must be at least 1, got {num_bins}.")
    values = torch.stack([torch.ones_like(confidence), correct.to(confidence), confidence])
    edges = torch.arange(1, num_bins, dtype=torch.float64, device=confidence.device) / num_bins
    bins = torch.bucketize(confidence.contiguous(), edges)  # an edge belongs to the bin below it
    return torch.zeros(3, num_bins, dtype=torch.float64, device=confidence.device).index_add_(1, bins, values)


def calibration_error(bins: Tensor) -> Tensor:
    """Expected calibration error in [0, 1] of the sums [3, num_bins] that :func:`bin_sums` gives."""
    examples, correct, confidence = bins
    return (correct - confidence).abs().sum() / examples.sum()


def overconfidence_error(bins: Tensor) -> Tensor:
    """Overconfidence error in [0, 1] (Thulasidasan et al., 2019) of the sums [3, num_bins] of :func:`bin_sums`."""
    examples, correct, confidence = bins
    mean = confidence / examples.clamp(min=1)  # 0 in an empty bin
    return (mean * (confidence - correct).clamp(min=0)).sum() / examples.sum()


def bin_lists(bins: Tensor) -> dict[str, list[float]]:
    """The sums of :func:`bin_sums` for a file, lowest bin first: ``examples``, those ``correct``, and ``confidence``.

    Confidences are rounded to six digits after the point.
    """
    examples, correct, confidence = bins.tolist()
    return {
        "examples": [int(count) for count in examples],
        "correct": [int(count) for count in correct],
        "confidence": [round(total, 6) for total in confidence],
    }


def _check(logits: Tensor, labels: Tensor) -> None:
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(f"logits must be [N, C] and labels [N], got {tuple(logits.shape)} and {tuple(labels.shape)}.")
