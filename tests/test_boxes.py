"""Boxes from maps against OpenCV's contours, and boxes against each other by hand."""

import time
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from alignmix_timm.evaluation.boxes import (
    check_boxes,
    contour_area,
    intersection_over_union,
    largest_box,
    resized_boxes,
    score_map,
)
from alignmix_timm.evaluation.level_boxes import level_boxes
from alignmix_timm.points.box_column import BoxColumn


def random_scores(cells: int, height: int, width: int, seed: int) -> np.ndarray:
    """A map that is the rougher, the more cells it was drawn with."""
    drawn = torch.randn(cells, cells, generator=torch.Generator().manual_seed(seed))
    return score_map(drawn, height, width)


def contours(scores: np.ndarray, level: int) -> tuple[np.ndarray, ...]:
    """As the reference implementation finds them."""
    _, above = cv2.threshold((scores * 255).astype(np.uint8), level, 255, cv2.THRESH_BINARY)
    return cv2.findContours(above, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0]


def box_of(contour: np.ndarray, scores: np.ndarray) -> tuple[int, ...]:
    x, y, width, height = cv2.boundingRect(contour)
    return x, y, min(x + width, scores.shape[1] - 1), min(y + height, scores.shape[0] - 1)


def at_level(scores: np.ndarray, level: int) -> list[tuple[int, ...]]:
    boxes = level_boxes(scores)[:, level]
    return sorted(map(tuple, boxes[boxes[:, 0] >= 0].tolist()))


MAPS = [(3, 24, 24), (7, 28, 20), (9, 17, 40), (24, 24, 24), (5, 1, 9), (40, 21, 30)]


@pytest.mark.parametrize(("cells", "height", "width"), MAPS)
def test_boxes_at_every_level_are_those_of_all_contours_of_opencv(cells: int, height: int, width: int) -> None:
    holes = 0
    for seed in range(3):
        scores = random_scores(cells, height, width, seed)
        boxes = level_boxes(scores)
        for level in range(0, 255, 4):
            found = contours(scores, level)
            holes += (
                len(found)
                - cv2.connectedComponents(((scores * 255).astype(np.uint8) > level).astype(np.uint8), connectivity=8)[0]
                + 1
            )
            ours = boxes[boxes[:, level, 0] >= 0, level]
            assert sorted(map(tuple, ours.tolist())) == sorted(box_of(contour, scores) for contour in found)
    assert holes or min(height, width) == 1, "no map had a hole"


@pytest.mark.parametrize(("cells", "height", "width"), MAPS)
@pytest.mark.parametrize("threshold", [0, 0.15, 0.5, 0.95])
def test_the_largest_box_is_that_of_opencvs_largest_contour(
    cells: int, height: int, width: int, threshold: float
) -> None:
    for seed in range(5):
        scores = random_scores(cells, height, width, seed)
        largest = max(contours(scores, int(threshold * 255)), key=cv2.contourArea)
        assert tuple(largest_box(scores, threshold)) == box_of(largest, scores)


def test_the_area_of_a_contour_is_opencvs_and_not_its_number_of_pixels() -> None:
    line, block = np.zeros((5, 30), bool), np.zeros((5, 30), bool)
    line[1, :20] = True  # more pixels than the block, and a polygon without area
    block[1:4, 25:28] = True
    scores = (line | block).astype(float)
    assert [contour_area(line), contour_area(block)] == [0, 4]
    assert [cv2.contourArea(contours(part.astype(float), 0)[0]) for part in (line, block)] == [0, 4]
    assert largest_box(scores, 0.5).tolist() == [25, 1, 28, 4]


def test_a_rectangle_gives_its_box_one_beyond_the_last_pixel_but_within_the_image() -> None:
    scores = np.zeros((12, 16))
    scores[2:5, 3:9] = 1
    assert at_level(scores, 100) == [(3, 2, 9, 5)]
    assert largest_box(scores, 0.15).tolist() == [3, 2, 9, 5]
    scores[2:, 3:] = 1
    assert at_level(scores, 100) == [(3, 2, 15, 11)]
    assert largest_box(scores, 0.15).tolist() == [3, 2, 15, 11]


def test_a_hole_has_a_box_of_its_own_and_an_island_in_it_too() -> None:
    scores = np.zeros((14, 14))
    scores[1:12, 2:13] = 1
    scores[3:10, 4:11] = 0
    scores[6, 7] = 1
    assert at_level(scores, 0) == [(2, 1, 13, 12), (3, 2, 12, 11), (7, 6, 8, 7)]
    assert at_level(scores, 0) == sorted(box_of(contour, scores) for contour in contours(scores, 0))
    assert largest_box(scores, 0).tolist() == [2, 1, 13, 12]


def test_thresholds_are_strict_and_scores_are_cut_to_bytes() -> None:
    scores = np.zeros((6, 6))
    scores[1, 1], scores[3, 3:5] = 1, 100.9 / 255
    assert at_level(scores, 99) == [(1, 1, 2, 2), (3, 3, 5, 4)]
    assert at_level(scores, 100) == [(1, 1, 2, 2)]


@pytest.mark.parametrize("value", [0.0, -3.0, float("nan")])
def test_a_constant_map_and_one_with_nan_have_a_box_of_zeros(value: float) -> None:
    drawn = torch.full((4, 4), value)
    scores = score_map(drawn, 9, 9)
    assert not scores.any()
    assert level_boxes(scores).tolist() == [[[0, 0, 0, 0]] * 255]
    assert largest_box(scores, 0.15).tolist() == [0, 0, 0, 0]
    drawn[0, 0] = float("nan")
    assert not score_map(drawn, 9, 9).any()


def test_a_map_is_resized_as_opencv_does_and_spans_zero_to_one() -> None:
    drawn = torch.randn(7, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    resized = cv2.resize(drawn.numpy(), (56, 112), interpolation=cv2.INTER_CUBIC)  # weights that float32 holds exactly
    expected = (resized - resized.min()) / (resized.max() - resized.min())
    assert np.allclose(score_map(drawn, 112, 56), expected, atol=1e-12)
    assert np.allclose(score_map(3 * drawn - 7, 112, 56), expected, atol=1e-12)


def test_both_corners_belong_to_a_box() -> None:
    boxes = np.array([[0, 0, 9, 9], [5, 0, 14, 9], [10, 0, 19, 9], [9, 9, 9, 9], [0, 0, 4, 9]])
    truth = np.array([[0, 0, 9, 9], [20, 20, 21, 21]])
    assert intersection_over_union(boxes, truth)[:, 0].tolist() == [1, 50 / 150, 0, 1 / 100, 0.5]
    assert not intersection_over_union(boxes, truth)[:, 1].any()


def test_true_boxes_are_rounded_towards_zero() -> None:
    boxes = np.array([[60.0, 27.0, 385.0, 331.0]])
    assert resized_boxes(boxes, (500, 335), (224, 224)).tolist() == [[26, 18, 172, 221]]
    assert [int(v * 224 / side) for v, side in zip(boxes[0], (500, 335) * 2, strict=True)] == [26, 18, 172, 221]
    assert resized_boxes(np.array([[-0.9, -0.5, 3, 3]]), (10, 10), (10, 10)).tolist() == [[0, 0, 3, 3]]


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ([5, 5, 5, 9], "x0 < x1"),
        ([5, 9, 8, 7], "y0 < y1"),
        ([-3, 0, 8, 7], "lie in the image"),
        ([2, 2, 30, 8], "lie in the image"),
        ([40, 40, 50, 50], "lie in the image"),
        ([0, 0, float("nan"), 8], "lie in the image"),
    ],
)
def test_a_box_that_is_none_or_not_in_the_image_is_named(box: list[float], words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        check_boxes(np.array([[1.0, 1, 20, 10], box]), 20, 10, "row 7")
    assert "row 7" in str(error.value)
    assert "20 x 10" in str(error.value)


def test_boxes_to_the_edges_are_good_and_no_box_is_not() -> None:
    check_boxes(np.array([[0.0, 0, 20, 10], [1, 1, 21, 11]]), 20, 10, "row 0")  # the second counts pixels from 1
    with pytest.raises(ValueError, match="must have a box, got none in row 3"):
        check_boxes(np.zeros((0, 4)), 20, 10, "row 3")


@pytest.mark.parametrize(
    ("name", "example", "expected"),
    [
        ("bbox", {"bbox": [1, 2, 3, 4]}, [[1, 2, 4, 6]]),  # a single box, as it is
        ("bbox", {"bbox": [[1, 2, 3, 4], [0, 0, 9, 5]]}, [[1, 2, 4, 6], [0, 0, 9, 5]]),
        ("bbox", {"bbox": None}, []),
        ("objects.bbox", {"objects": {"bbox": [[1, 2, 3, 4]]}}, [[1, 2, 4, 6]]),
        ("objects.bbox", {"objects": [{"bbox": [1, 2, 3, 4]}, {"bbox": [0, 0, 9, 5]}]}, [[1, 2, 4, 6], [0, 0, 9, 5]]),
    ],
)
def test_boxes_of_a_row_however_they_are_stored(name: str, example: dict, expected: list) -> None:
    assert BoxColumn(name, "xywh").read(example, 20, 10, 0).tolist() == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (7, "four finite numbers each, got 7 in row 3"),
        ("1 2 3 4", "four finite numbers each, got '1 2 3 4' in row 3"),
        ([1, 2, 3], r"four finite numbers each, got \[1, 2, 3\] in row 3"),
        ([[1, 2, 3, 4], [1, 2, 3]], r"four finite numbers each, got \[1, 2, 3\] in row 3"),
        ({"bytes": b"0" * 999}, r"four finite numbers each, got .{,99} in row 3"),
        ([9, 9, 1, 1], r"got \[9, 9, 1, 1\] in row 3, whose image has 20 x 10. Correct the row, or --box-format"),
        ([30, 2, 40, 5], "boxes must lie in the image"),
        ([[0, 0, 5, 5], [2, 3, 22, 9]], r"xyxy in pixels, got \[2, 3, 22, 9\] in row 3"),
        ([-2, 0, 5, 5], r"got \[-2, 0, 5, 5\] in row 3"),
    ],
)
def test_what_is_no_box_is_said(value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BoxColumn("bbox").read({"bbox": value}, 20, 10, 3)


def test_a_box_may_reach_a_pixel_beyond_the_image_and_corners_are_no_width_and_height() -> None:
    beyond = [[-1, -1, 21, 11], [1, 1, 21, 11]]
    assert BoxColumn("bbox").read({"bbox": beyond}, 20, 10, 3).tolist() == beyond
    assert BoxColumn("bbox", "xywh").read({"bbox": [11, 2, 10, 8]}, 20, 10, 3).tolist() == [[11, 2, 21, 10]]
    with pytest.raises(ValueError, match=r"xywh in pixels, got \[11, 2, 19, 9\] in row 3, whose image has 20 x 10"):
        BoxColumn("bbox", "xywh").read({"bbox": [11, 2, 19, 9]}, 20, 10, 3)


@pytest.mark.slow
def test_a_test_set_of_cub_takes_minutes() -> None:
    maps = [F.interpolate(torch.randn(1, 1, 14, 14), (224, 224), mode="bicubic")[0, 0] for _ in range(20)]
    scores = [score_map(drawn, 224, 224) for drawn in maps]
    start = time.process_time()
    for each in scores:
        level_boxes(each)
    seconds = (time.process_time() - start) / len(scores) * 5794
    assert seconds < 600, f"{seconds:.0f} s of CPU time for 5,794 images"
