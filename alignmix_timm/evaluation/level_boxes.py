"""Boxes around the contours of a map at every threshold at once: those that OpenCV's ``findContours`` finds.

As the threshold falls, the parts of a map above it only grow and merge. So each position is given to the peak that
steepest ascent leads to, and a short list says at which saddle which peaks merge: a merge tree (Carr, Snoeyink and
Axen, 2003, "Computing contour trees in all dimensions"). Holes are the same of the map upside down.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

LEVELS = 255  # thresholds 0 to 254 of a map of bytes
_NOWHERE = 2**14  # beyond any map: what a part has for its first row and column where it is not there


def level_boxes(scores: np.ndarray) -> np.ndarray:
    """Boxes around the outer contours and around the contours of holes, at each threshold.

    A position is above threshold t if ``floor(255 score) > t``. Parts are 8-connected, holes 4-connected; the contour
    of a hole runs through the positions around it.

    Args:
        scores: [H, W] in [0, 1], sides of at most 16,382.

    Returns:
        Boxes (x0, y0, x1, y1), [contours, 255, 4]; contours are in no order, and -1 where a contour is not there.
        x1 and y1 are one beyond the last position of the contour, but at most W - 1 and H - 1. Where no position is
        above the threshold there is a single box, of zeros.
    """
    height, width = scores.shape
    levels = np.floor(255 * scores).astype(np.int64)
    parts = _spans(scores, levels, 256, diagonal=True)[:, :, 1:]
    padded = np.pad(-scores, 1, constant_values=np.inf), np.pad(255 - levels, 1, constant_values=256)
    holes = _spans(*padded, 257, diagonal=False)[:, :-1, 255:0:-1]  # but the last, which is what surrounds the map
    holes[:2] -= 2  # the padding, and the step from a hole to its contour; the two cancel at the other end
    x0, y0, x1, y1 = np.concatenate([parts, holes], axis=1) * np.array([1, 1, -1, -1])[:, None, None]
    boxes = np.stack([x0, y0, np.minimum(x1 + 1, width - 1), np.minimum(y1 + 1, height - 1)], axis=-1)
    there = x0 < width
    boxes[~there] = -1
    boxes[0, ~there.any(0)] = 0
    return boxes


def _spans(heights: np.ndarray, levels: np.ndarray, count: int, diagonal: bool) -> np.ndarray:
    """(x0, y0, -x1, -y1) of each part of the map at or above each of ``count`` levels, [4, parts, count].

    A part goes on as that of its highest peak; parts are in the order of these.
    """
    peaks = _peaks(heights, diagonal)
    flat = (peaks * count + levels).ravel()
    y, x = np.indices(levels.shape, dtype=np.int16).reshape(2, -1)
    spans: np.ndarray = np.full((4, (int(peaks.max()) + 1) * count), _NOWHERE, np.int16)
    for span, place in zip(spans, (x, y, -x, -y), strict=True):
        np.minimum.at(span, flat, place)
    spans = spans.reshape(4, -1, count)
    spans = np.minimum.accumulate(spans[:, :, ::-1], axis=2)[:, :, ::-1].copy()
    for lower, higher, level in _merges(peaks, levels, diagonal):
        joined = spans[:, higher, : level + 1]
        np.minimum(joined, spans[:, lower, : level + 1], out=joined)
        spans[:, lower, : level + 1] = _NOWHERE
    return spans


def _peaks(heights: np.ndarray, diagonal: bool) -> np.ndarray:
    """The peak that steepest ascent leads to from each position: [H, W], peaks counted from the lowest.

    Of equal heights the later position is the higher one.
    """
    height, width = heights.shape
    padded = np.pad(heights, 1, constant_values=-np.inf)
    places = np.arange(heights.size).reshape(heights.shape)
    highest: np.ndarray = np.full_like(heights, -np.inf)
    upward: np.ndarray = np.empty_like(places)
    for y, x in itertools.product((-1, 0, 1), repeat=2):
        if diagonal or not (y and x):
            around = padded[1 + y : 1 + y + height, 1 + x : 1 + x + width]
            higher = around >= highest
            np.copyto(highest, around, where=higher)
            np.copyto(upward, places + (y * width + x), where=higher)
    upward = upward.ravel()
    while not np.array_equal(upward, further := upward[upward]):
        upward = further
    peaks = np.flatnonzero(upward == places.ravel())
    number = np.empty_like(upward)
    number[peaks[np.argsort(heights.ravel()[peaks], kind="stable")]] = np.arange(len(peaks))
    return number[upward].reshape(heights.shape)


def _merges(peaks: np.ndarray, levels: np.ndarray, diagonal: bool) -> Iterator[tuple[int, int, int]]:
    """The lower and the higher of two peaks and the highest level at which their parts are one, from the top down."""
    count = int(peaks.max()) + 1
    neighbours: list[tuple[Any, Any]] = [(np.s_[:, 1:], np.s_[:, :-1]), (np.s_[1:], np.s_[:-1])]
    if diagonal:
        neighbours += [(np.s_[1:, 1:], np.s_[:-1, :-1]), (np.s_[1:, :-1], np.s_[:-1, 1:])]
    pairs, saddles = [], []
    for here, there in neighbours:
        apart = peaks[here] != peaks[there]
        first, second = peaks[here][apart], peaks[there][apart]
        pairs.append(np.minimum(first, second) * count + np.maximum(first, second))
        saddles.append(np.minimum(levels[here], levels[there])[apart])
    pair, saddle = np.concatenate(pairs), np.concatenate(saddles)
    order = np.argsort(-saddle, kind="stable")
    _, first = np.unique(pair[order], return_index=True)  # the highest saddle of each pair
    above = list(range(count))
    for place in order[np.sort(first)].tolist():
        one, other = (_top(above, int(peak)) for peak in divmod(int(pair[place]), count))
        if one != other:
            lower, higher = sorted((one, other))
            above[lower] = higher
            yield lower, higher, int(saddle[place])


def _top(above: list[int], peak: int) -> int:
    """The highest peak that a peak has been merged with."""
    while above[peak] != peak:
        above[peak] = peak = above[above[peak]]
    return peak
