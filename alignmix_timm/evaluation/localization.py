"""Where a classifier looks: boxes from class activation maps against boxes around the objects (AlignMix, Table 4)."""

from typing import NamedTuple

import numpy as np

from .boxes import intersection_over_union, largest_box
from .level_boxes import level_boxes
from .metric import Metric

THRESHOLD = 0.15
OVERLAPS = (0.3, 0.5, 0.7)
_SIZED = "The whole image is resized to the model's input size, and boxes with it, rounded towards zero."
_MAP = "class activation map, resized by bicubic interpolation and scaled to [0, 1]"

METRICS = (
    Metric(
        "top1_loc",
        "Top-1 Loc %",
        "higher",
        "Share of images whose class is predicted and whose box has an IoU of at least 0.5 with a true one, in percent "
        f"(AlignMix, Table 4). The box is that of the contour with the largest area above {THRESHOLD} of the {_MAP}. "
        f"{_SIZED}",
    ),
    Metric(
        "gt_known_loc",
        "GT-known Loc %",
        "higher",
        "As Top-1 Loc, with the map of the true class, whatever is predicted, in percent. Of data without labels, with "
        "the map of the predicted class.",
    ),
    Metric(
        "max_box_acc_v2",
        "MaxBoxAccV2 %",
        "higher",
        "Mean of MaxBoxAccV2 at IoU 0.3, 0.5 and 0.7, in percent (Choe et al., 2020, arXiv:2001.07437).",
    ),
    *(
        Metric(
            f"max_box_acc_v2_{100 * overlap:.0f}",
            f"MaxBoxAccV2 at IoU {overlap} %",
            "higher",
            f"Share of images for which the box of any contour has an IoU of at least {overlap} with a true one, in "
            f"percent, at the threshold between 0 and 1, one for all images, where this share is the largest. Of the "
            f"{_MAP}, of the true class, or of the predicted class if the data have no labels. {_SIZED} The threshold "
            "is chosen on these images.",
        )
        for overlap in OVERLAPS
    ),
)


class Overlap(NamedTuple):
    """The largest intersection over union of boxes from a map with any of the true ones.

    Attributes:
        largest: That of the contour with the largest area at :data:`THRESHOLD`.
        by_level: That of any contour, at each of the thresholds 0/255 to 254/255, [255].
    """

    largest: float
    by_level: np.ndarray


def overlap(scores: np.ndarray, truth: np.ndarray) -> Overlap:
    """How well a map finds the objects of its image.

    Args:
        scores: The map [H, W] in [0, 1], of :func:`~alignmix_timm.evaluation.boxes.score_map`.
        truth: Boxes around the objects in pixels of the map, [G, 4].
    """
    boxes = level_boxes(scores)
    best = intersection_over_union(boxes, truth).max(-1)
    best[boxes[..., 0] < 0] = 0  # where a contour is not there
    return Overlap(float(intersection_over_union(largest_box(scores, THRESHOLD), truth).max()), best.max(0))


def localization(correct: np.ndarray | None, largest: np.ndarray, by_level: np.ndarray) -> dict[str, float | None]:
    """The values of :data:`METRICS`, in percent.

    Thresholds 0, 0.001, ..., 0.999 of a map of bytes are those from 0 to 254 of 255.

    Args:
        correct: Whether the class of each image is predicted, [N]; None where it is not known, nor Top-1 Loc then.
        largest, by_level: The :class:`Overlap` of the map of its class, [N] and [N, 255].

    Raises:
        ValueError: no images.
    """
    if not len(largest):
        raise ValueError("localization needs at least one image, got none.")
    found = largest >= 0.5
    top1 = None if correct is None else 100 * float((found & correct).mean())
    best = [100 * float((by_level >= least).mean(0).max()) for least in OVERLAPS]
    sized = {f"max_box_acc_v2_{100 * least:.0f}": value for least, value in zip(OVERLAPS, best, strict=True)}
    return {"top1_loc": top1, "gt_known_loc": 100 * float(found.mean()), "max_box_acc_v2": sum(best) / 3, **sized}
