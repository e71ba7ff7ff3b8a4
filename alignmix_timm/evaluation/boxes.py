"""Boxes around objects: from maps, from annotations, and how far two agree.

A box is (x0, y0, x1, y1). For intersection over union both corners belong to it, as in the reference implementation of
weakly supervised localization (Choe et al., 2020, https://arxiv.org/abs/2001.07437).
"""

import numpy as np
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

_SLACK = 1.0  # pixels by which annotations that count from 1, or that were rounded, reach beyond the image


def score_map(activation_map: Tensor, height: int, width: int) -> np.ndarray:
    """A map [h, w] resized by bicubic interpolation and scaled from its least and largest value to [0, 1]: [H, W].

    Zeros if the map is constant, or has a value that is not finite.
    """
    raised = activation_map.double().cpu() - activation_map.min().double().cpu()  # zeros, exactly, if it is constant
    resized = F.interpolate(raised[None, None], (height, width), mode="bicubic")[0, 0].numpy()
    shifted = resized - resized.min()
    if not np.isfinite(shifted).all() or not shifted.any():
        return np.zeros_like(resized)
    return shifted / shifted.max()


def largest_box(scores: np.ndarray, threshold: float) -> np.ndarray:
    """The box of the contour with the largest area among those of the map at one threshold, [4].

    Args:
        scores: [H, W] in [0, 1], of :func:`score_map`.
        threshold: Share of the largest value, in [0, 1).

    Returns:
        As of :func:`~alignmix_timm.evaluation.level_boxes.level_boxes`: zeros where no position is above the threshold.
        Of contours with equal area the last in reading order.
    """
    levels = np.floor(255 * scores)
    parts, _ = ndimage.label(levels > int(threshold * levels.max()), np.ones((3, 3)))
    best, largest = np.zeros(4, np.int64), -1.0
    for number, (rows, columns) in enumerate(ndimage.find_objects(parts), 1):
        box = np.array([columns.start, rows.start, columns.stop, rows.stop])
        if np.prod(box[2:] - box[:2] - 1) >= largest:  # the area cannot be more
            area = contour_area(ndimage.binary_fill_holes(parts[rows, columns] == number))
            if area >= largest:
                best, largest = box, area
    height, width = scores.shape
    return np.minimum(best, [width, height, width - 1, height - 1])


def contour_area(part: np.ndarray) -> float:
    """The area of the polygon through the centres of the outer pixels of a part [H, W] bool without holes."""
    part = part.astype(np.int64)
    corners = part[1:, 1:] + part[1:, :-1] + part[:-1, 1:] + part[:-1, :-1]
    return float((corners == 4).sum() + (corners == 3).sum() / 2)


def intersection_over_union(boxes: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Of boxes [..., 4] with each of [G, 4], in pixels, both corners included: [..., G]."""
    boxes = boxes[..., None, :].astype(np.float64)
    common = np.minimum(boxes[..., 2:], truth[:, 2:]) - np.maximum(boxes[..., :2], truth[:, :2]) + 1
    shared = common.clip(0).prod(-1)
    areas = (boxes[..., 2:] - boxes[..., :2] + 1).prod(-1) + (truth[:, 2:] - truth[:, :2] + 1).prod(-1)
    return shared / (areas - shared)


def in_image(boxes: np.ndarray, width: int, height: int) -> np.ndarray:
    """Which boxes [G, 4] have an area and lie in an image of this size, but for a pixel at its edges: [G] bool."""
    x0, y0, x1, y1 = boxes.T
    inside = (x0 >= -_SLACK) & (y0 >= -_SLACK) & (x1 <= width + _SLACK) & (y1 <= height + _SLACK)
    return inside & (x0 < x1) & (y0 < y1) & np.isfinite(boxes).all(1)


def check_boxes(boxes: np.ndarray, width: int, height: int, where: str) -> None:
    """Raise a ValueError that names ``where``: no box, one without area, or one that is not in the image."""
    if not len(boxes):
        raise ValueError(f"each image must have a box, got none in {where}.")
    good = in_image(boxes, width, height)
    if not good.all():
        wrong = boxes[~good][0].tolist()
        raise ValueError(
            f"boxes must have x0 < x1 and y0 < y1 and lie in the image, in pixels, got {wrong} in {where}, whose image "
            f"has {width} x {height}. Correct or leave out the row; boxes of corner, width and height are xywh."
        )


def resized_boxes(boxes: np.ndarray, image: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """Boxes [G, 4] in pixels of an image after it is resized, rounded towards zero; both sizes are (width, height)."""
    return np.trunc(boxes * np.array(size * 2) / np.array(image * 2)).astype(np.int64)
