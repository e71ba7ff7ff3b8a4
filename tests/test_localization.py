"""The measures of localization against a literal loop over thresholds and OpenCV's contours, and by hand."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from test_boxes import box_of, contours, random_scores

from alignmix_timm.evaluation.box_files import read_box_files
from alignmix_timm.evaluation.boxes import intersection_over_union, score_map
from alignmix_timm.evaluation.localization import METRICS, Overlap, localization, overlap

DELTAS = (0.3, 0.5, 0.7)


def reference_hits(scores: np.ndarray, truth: list[list[int]], largest_only: bool) -> np.ndarray:
    """Whether each IoU is reached at each of the thresholds 0, 0.001, ...: [3, 1000], written as a literal loop."""
    hits = np.zeros((3, 1000), bool)
    known: dict[int, float] = {}
    for place, tau in enumerate(np.arange(0, 1, 0.001)):
        level = int(tau * np.max((scores * 255).astype(np.uint8)))
        if level not in known:
            found = contours(scores, level)
            if found and largest_only:
                found = (max(found, key=cv2.contourArea),)
            boxes = [box_of(contour, scores) for contour in found] or [(0, 0, 0, 0)]
            known[level] = max(reference_iou(box, other) for box in boxes for other in truth)
        hits[:, place] = known[level] >= np.array(DELTAS)
    return hits


def reference_iou(first: tuple[int, ...] | list[int], second: tuple[int, ...] | list[int]) -> float:
    width = min(first[2], second[2]) - max(first[0], second[0]) + 1
    height = min(first[3], second[3]) - max(first[1], second[1]) + 1
    shared = max(width, 0) * max(height, 0)
    area = sum((box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (first, second))
    return shared / (area - shared)


@pytest.fixture(scope="module")
def rows() -> list[tuple[np.ndarray, list[list[int]]]]:
    """Maps from smooth to rough, one constant, with one to three true boxes each."""
    rng = np.random.default_rng(0)
    found = []
    for seed, cells in enumerate((2, 3, 4, 5, 6, 20)):
        corners = rng.integers(0, 14, (rng.integers(1, 4), 2))
        truth = np.concatenate([corners, corners + rng.integers(2, 10, corners.shape)], 1)
        found.append((random_scores(cells, 24, 24, seed), truth.tolist()))
    return [*found, (np.zeros((24, 24)), [[0, 0, 1, 1]])]


def measured(rows: list[tuple[np.ndarray, list[list[int]]]], correct: np.ndarray | None = None) -> dict[str, float]:
    found = [overlap(scores, np.array(truth)) for scores, truth in rows]
    correct = np.ones(len(rows), bool) if correct is None else correct
    return localization(correct, np.array([each.largest for each in found]), np.stack([each[1] for each in found]))


def test_the_values_are_those_of_a_literal_loop_over_a_thousand_thresholds(
    rows: list[tuple[np.ndarray, list[list[int]]]],
) -> None:
    values = measured(rows)
    hits = np.stack([reference_hits(*row, largest_only=False) for row in rows])
    curves = 100 * hits.mean(0)
    for name, curve in zip(("30", "50", "70"), curves, strict=True):
        assert values[f"max_box_acc_v2_{name}"] == pytest.approx(curve.max())
        assert all(values[f"max_box_acc_v2_{name}"] >= value for value in curve)  # at any threshold that is fixed
    assert values["max_box_acc_v2"] == pytest.approx(curves.max(1).mean())
    assert 0 < values["max_box_acc_v2_70"] < values["max_box_acc_v2_30"]
    single = np.stack([reference_hits(*row, largest_only=True) for row in rows])
    assert (hits >= single).all()  # all contours find what the largest finds
    assert values["gt_known_loc"] == pytest.approx(100 * single[:, 1, 150].mean())
    assert {metric.key for metric in METRICS} == values.keys()


def test_top1_loc_counts_where_the_class_is_predicted_and_the_box_fits() -> None:
    correct, largest = np.array([True, True, False, False]), np.array([0.5, 0.4999, 0.9, 0.1])
    values = localization(correct, largest, np.zeros((4, 255)))
    assert [values["top1_loc"], values["gt_known_loc"], values["max_box_acc_v2"]] == [25, 50, 0]


def test_the_threshold_is_one_for_all_images() -> None:
    by_level = np.zeros((2, 255))
    by_level[0, 10:20], by_level[1, 30:40] = 0.6, 0.6  # each image is found, but never at the same threshold
    values = localization(np.ones(2, bool), np.zeros(2), by_level)
    assert [values[f"max_box_acc_v2_{name}"] for name in (30, 50, 70)] == [50, 50, 0]
    by_level[1, 19] = 0.5
    values = localization(np.ones(2, bool), np.zeros(2), by_level)
    assert [values[f"max_box_acc_v2_{name}"] for name in (30, 50, 70)] == [100, 100, 0]
    assert values["max_box_acc_v2"] == pytest.approx(200 / 3)


def test_any_contour_may_find_any_true_box_but_top1_takes_the_largest() -> None:
    scores = np.zeros((30, 30))
    scores[2:14, 2:14], scores[20:25, 20:25] = 1, 1
    small, large, neither = [20, 20, 25, 25], [2, 2, 14, 14], [0, 25, 3, 29]
    assert overlap(scores, np.array([small])) == Overlap(0, pytest.approx(np.ones(255)))
    assert overlap(scores, np.array([large])).largest == 1
    assert overlap(scores, np.array([neither, large])) == Overlap(1, pytest.approx(np.ones(255)))
    assert not overlap(scores, np.array([neither])).by_level.any()


def test_a_constant_map_can_only_find_the_first_pixel() -> None:
    scores = np.zeros((9, 9))
    assert overlap(scores, np.array([[3, 3, 8, 8]])) == Overlap(0, pytest.approx(np.zeros(255)))
    assert overlap(scores, np.array([[0, 0, 1, 0]])) == Overlap(0.5, pytest.approx(np.full(255, 0.5)))


def test_the_box_of_a_rectangle_that_the_map_marks_is_found_at_every_threshold() -> None:
    drawn = torch.zeros(8, 8)
    drawn[2:5, 1:6] = 1
    found = overlap(score_map(drawn, 8, 8), np.array([[1, 2, 6, 5]]))
    assert found == Overlap(1, pytest.approx(np.ones(255)))


def test_no_images_are_named() -> None:
    with pytest.raises(ValueError, match="at least one image"):
        localization(np.zeros(0, bool), np.zeros(0), np.zeros((0, 255)))


@pytest.mark.parametrize("seed", range(3))
def test_intersection_over_union_is_that_of_a_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, 30, (12, 2))
    boxes = np.concatenate([corners, corners + rng.integers(0, 20, corners.shape)], 1)
    expected = [[reference_iou(first, second) for second in boxes[:5].tolist()] for first in boxes.tolist()]
    assert np.allclose(intersection_over_union(boxes, boxes[:5]), expected)


FILES = {
    "image_ids.txt": "a/1, left.jpg\nb/2.jpg\n",
    "class_labels.txt": "b/2.jpg,1\na/1, left.jpg,0\n",
    "image_sizes.txt": "a/1, left.jpg,20,10\nb/2.jpg,8,8\n",
    "localization.txt": "a/1, left.jpg,1.0,2.0,9.0,8.0\nb/2.jpg,0,0,8,8\na/1, left.jpg,10,0,20,10\n\n",
}


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def test_the_files_of_wsolevaluation_are_read(tmp_path: Path) -> None:
    found = read_box_files(write(tmp_path, FILES))
    assert list(found) == ["a/1, left.jpg", "b/2.jpg"]
    first, second = found.values()
    assert (first.label, first.size) == (0, (20, 10))
    assert first.boxes.tolist() == [[1, 2, 9, 8], [10, 0, 20, 10]]
    assert (second.label, second.size, second.boxes.tolist()) == (1, (8, 8), [[0, 0, 8, 8]])


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("image_ids.txt", "", "lists no images"),
        ("class_labels.txt", "b/2.jpg,1\n", "none for a/1, left.jpg"),
        ("localization.txt", "a/1, left.jpg,1,2,9,8\n", "none for b/2.jpg"),
        ("localization.txt", FILES["localization.txt"] + "b/2.jpg,3,4,5\n", "line 5"),
        ("image_sizes.txt", "a/1, left.jpg,twenty,10\nb/2.jpg,8,8\n", "a path and 2 numbers"),
        ("localization.txt", "a/1, left.jpg,1,2,99,8\nb/2.jpg,0,0,8,8\n", "lie in the image"),
    ],
)
def test_files_that_do_not_fit_are_named(tmp_path: Path, name: str, text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        read_box_files(write(tmp_path, FILES | {name: text}))
    assert name in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    write(tmp_path, FILES)
    (tmp_path / "image_sizes.txt").unlink()
    with pytest.raises(ValueError, match=r"image_sizes\.txt cannot be read"):
        read_box_files(tmp_path)
