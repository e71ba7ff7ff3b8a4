"""Detection of out-of-distribution (OOD) images by confidence (AlignMix, Tables 3 and 6), and noise as such images.

The score of an image is its maximum softmax probability, without temperature or perturbation of the input; a high score
means in-distribution (ID). This follows Hendrycks and Gimpel (2017), with the threshold of the paper. Numbers of other
code differ where it does:

- the CIFAR script of Hendrycks and Gimpel scores only ID images that are classified correctly; here all are scored;
- ODIN (Liang et al., 2018) and CutMix report the accuracy at the best threshold, which is ``det_acc_best``;
- ODIN leaves out the first 1,000 images of both sets, and its precision is TPR / (TPR + FPR), on a grid of thresholds;
- ODIN's Gaussian noise has a standard deviation of 1, the paper's one of 0.5.
"""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

from .metric import Metric

METRICS = (
    Metric(
        "det_acc",
        "Det Acc %",
        "higher",
        "Mean of the share of ID images with maximum softmax probability >= 0.5 and the share of OOD images below it, "
        "%: the fixed threshold of AlignMix.",
    ),
    Metric(
        "det_acc_best",
        "Det Acc best %",
        "higher",
        "As det_acc, at the threshold that is the best for these two sets, %: the detection accuracy of ODIN.",
    ),
    Metric(
        "auroc",
        "AUROC %",
        "higher",
        "Area under the ROC curve: the probability that an ID image scores higher than an OOD image, with ties counted "
        "half, %.",
    ),
    Metric(
        "aupr_id",
        "AuPR ID %",
        "higher",
        "Average precision with ID images as positives, sum of (R_k - R_(k-1)) P_k over distinct scores, %; by chance "
        "the share of ID images.",
    ),
    Metric(
        "aupr_ood",
        "AuPR OOD %",
        "higher",
        "Average precision with OOD images as positives and scores negated, %; by chance the share of OOD images.",
    ),
)


def max_softmax(logits: Tensor) -> Tensor:
    """Maximum softmax probability of each row of logits [N, C], computed in float64: [N], on the CPU.

    Raises:
        ValueError: less than two classes, or logits that are NaN or infinite, which have no softmax.
    """
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ValueError(
            f"logits must be [N, C] of at least 2 classes, got {tuple(logits.shape)}: the softmax of one class is "
            "always 1."
        )
    if broken := int((~logits.isfinite()).any(1).sum()):
        raise ValueError(
            f"logits must be finite, got NaN or infinity in {broken} of {len(logits)} rows: check the weights of the "
            "model."
        )
    return logits.detach().cpu().double().softmax(1).amax(1)


def detection(inliers: Tensor, outliers: Tensor, threshold: float = 0.5) -> dict[str, float]:
    """How well scores tell two sets apart: the values of :data:`METRICS`, in percent.

    Args:
        inliers: Scores of ID images, [N], such as those of :func:`max_softmax`.
        outliers: Scores of OOD images, [M].
        threshold: Of ``det_acc``: a score equal to it means ID.

    Raises:
        ValueError: an empty set, or scores that are not [N] or are NaN.
    """
    for name, scores in (("inliers", inliers), ("outliers", outliers)):
        if scores.ndim != 1 or not len(scores) or bool(scores.isnan().any()):
            raise ValueError(
                f"{name} must be at least one score, [N], none of them NaN, got {tuple(scores.shape)} with "
                f"{int(scores.isnan().sum())} NaN."
            )
    ins, outs = inliers.detach().cpu().double(), outliers.detach().cpu().double()
    levels, level = torch.cat([ins, outs]).unique(return_inverse=True)
    counts = [torch.bincount(part, minlength=len(levels)) for part in level.split([len(ins), len(outs)])]
    detected, passed = (count.flip(0).cumsum(0) for count in counts)  # ID and OOD images with at least this score
    below = counts[1].cumsum(0) - counts[1]  # OOD images with less than this score
    correct = detected / len(ins) + 1 - passed / len(outs)
    values = {
        "det_acc": ((ins >= threshold).double().mean() + (outs < threshold).double().mean()) / 2,
        "det_acc_best": correct.max().clamp(min=1) / 2,  # a threshold above all scores: every image is OOD
        "auroc": (counts[0] * (below + 0.5 * counts[1].double())).sum() / (len(ins) * len(outs)),
        "aupr_id": _average_precision(counts[0].flip(0), counts[1].flip(0)),
        "aupr_ood": _average_precision(counts[1], counts[0]),
    }
    return {key: 100 * float(value) for key, value in values.items()}


def _average_precision(positives: Tensor, negatives: Tensor) -> Tensor:
    """Sum of (R_k - R_(k-1)) P_k, from how many images have each distinct score, in the order of detection."""
    detected = positives.cumsum(0).double()
    return (positives * detected / (detected + negatives.cumsum(0))).sum() / positives.sum()


def uniform_noise(rows: Iterable[int], shape: tuple[int, ...], seed: int = 0, images: Tensor | None = None) -> Tensor:
    """Images whose pixels are drawn independently from U(0, 1).

    Args:
        rows: Numbers of the images; each depends on the seed and its number alone.
        shape: Of one image, (C, H, W).
        seed: At least 0.
        images: Images in [0, 1] to add the noise to, [N, C, H, W], instead of noise alone; the sum is clamped to
            [0, 1].

    Returns:
        [N, C, H, W] float32 in [0, 1], to be normalized as any image.

    Raises:
        ValueError: a negative seed or row, or images of another number or shape.
    """
    return _pixels([_generator(seed, 0, row).random(shape) for row in rows], shape, images)


def gaussian_noise(
    rows: Iterable[int], shape: tuple[int, ...], seed: int = 0, std: float = 0.5, images: Tensor | None = None
) -> Tensor:
    """Images whose pixels are drawn independently from a normal distribution of mean 0.5, clamped to [0, 1].

    Args:
        std: Standard deviation: 0.5 in AlignMix, 1 in ODIN.

    The other arguments, the result and errors are those of :func:`uniform_noise`.
    """
    return _pixels([_generator(seed, 1, row).normal(0.5, std, shape) for row in rows], shape, images)


NOISE: dict[str, Callable[..., Tensor]] = {"uniform": uniform_noise, "gaussian": gaussian_noise}


def _generator(seed: int, stream: int, row: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(stream, row)))


def _pixels(noise: list[np.ndarray], shape: tuple[int, ...], images: Tensor | None) -> Tensor:
    drawn = torch.from_numpy(np.stack(noise)) if noise else torch.zeros(0, *shape)
    if images is not None:
        if images.shape != drawn.shape or not images.is_floating_point():
            raise ValueError(
                f"images must be floats {tuple(drawn.shape)} in [0, 1], one of each row, got {images.dtype} "
                f"{tuple(images.shape)}."
            )
        drawn = images.cpu() + drawn
    return drawn.clamp(0, 1).float()
