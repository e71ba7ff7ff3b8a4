"""Out-of-distribution detection against scikit-learn, scans of all thresholds, and its symmetries; noise images."""

import itertools
import math
import re

import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor

from alignmix_timm.evaluation.ood import METRICS, detection, gaussian_noise, max_softmax, uniform_noise

SHAPE = (3, 4, 5)


def some_scores(count: int, shift: float, seed: int, levels: int | None = None) -> Tensor:
    """In (0, 1); of so many levels, to have ties."""
    scores = torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).add(shift).sigmoid()
    return scores if levels is None else (scores * levels).round() / levels


def sets(seed: int, levels: int | None = None) -> tuple[Tensor, Tensor]:
    return some_scores(150, 0.5, seed, levels), some_scores(90, -0.3, seed + 100, levels)


CASES = [(seed, levels) for seed in range(3) for levels in (None, 20, 4, 1)]


@pytest.mark.parametrize(("seed", "levels"), CASES)
def test_areas_are_those_of_scikit_learn(seed: int, levels: int | None) -> None:
    inliers, outliers = sets(seed, levels)
    scores = torch.cat([inliers, outliers]).numpy()
    truth = [1] * len(inliers) + [0] * len(outliers)
    found = detection(inliers, outliers)
    assert found["auroc"] == pytest.approx(100 * roc_auc_score(truth, scores), abs=1e-9)
    assert found["aupr_id"] == pytest.approx(100 * average_precision_score(truth, scores), abs=1e-9)
    reverse = [1 - one for one in truth]
    assert found["aupr_ood"] == pytest.approx(100 * average_precision_score(reverse, -scores), abs=1e-9)


@pytest.mark.parametrize(("seed", "levels"), CASES)
def test_detection_accuracies_are_those_of_a_loop_over_all_thresholds(seed: int, levels: int | None) -> None:
    inliers, outliers = (part.tolist() for part in sets(seed, levels))

    def balanced(threshold: float) -> float:
        right = sum(one >= threshold for one in inliers) / len(inliers)
        return 50 * (right + sum(one < threshold for one in outliers) / len(outliers))

    found = detection(torch.tensor(inliers).double(), torch.tensor(outliers).double())
    assert found["det_acc"] == pytest.approx(balanced(0.5))
    assert found["det_acc_best"] == pytest.approx(max(map(balanced, [*inliers, *outliers, math.inf])))
    assert detection(*sets(seed, levels), threshold=0.25)["det_acc"] == pytest.approx(balanced(0.25))


def test_the_values_are_those_that_are_defined() -> None:
    assert list(detection(*sets(0))) == [metric.key for metric in METRICS]


def test_a_score_at_the_threshold_means_in_distribution() -> None:
    assert detection(torch.tensor([0.5]), torch.tensor([0.5]))["det_acc"] == 50
    assert detection(torch.tensor([0.5]), torch.tensor([0.4999]))["det_acc"] == 100
    assert detection(torch.tensor([0.4999]), torch.tensor([0.5]))["det_acc"] == 0


def test_perfectly_separated_sets_score_100_and_reversed_ones_as_bad_as_can_be() -> None:
    high, low = torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0.4, 0.3])
    assert set(detection(high, low).values()) == {100}
    reverse = detection(low, high)
    assert reverse["auroc"] == reverse["det_acc"] == 0
    assert reverse["det_acc_best"] == 50  # all images called one or the other


@pytest.mark.parametrize("levels", [None, 5])
def test_equal_sets_give_chance(levels: int | None) -> None:
    scores = some_scores(150, 0.5, 7, levels)
    found = detection(scores, scores.flip(0))
    assert [found[key] for key in ("det_acc", "det_acc_best", "auroc")] == pytest.approx([50, 50, 50])
    # each distinct score has as many images of both sets, so precision is 1/2 at all of them
    assert [found[key] for key in ("aupr_id", "aupr_ood")] == pytest.approx([50, 50])
    constant = detection(torch.full((30,), 0.3), torch.full((10,), 0.3))
    assert [constant[key] for key in ("auroc", "aupr_id", "aupr_ood")] == [50, 75, 25]


@pytest.mark.parametrize("levels", [None, 8])
def test_swapping_the_sets_swaps_the_precisions_and_mirrors_the_area(levels: int | None) -> None:
    inliers, outliers = sets(3, levels)
    found, swapped = detection(inliers, outliers), detection(-outliers, -inliers)
    assert swapped["aupr_id"] == pytest.approx(found["aupr_ood"], abs=1e-12)
    assert swapped["aupr_ood"] == pytest.approx(found["aupr_id"], abs=1e-12)
    assert swapped["auroc"] == pytest.approx(found["auroc"], abs=1e-12)
    assert detection(outliers, inliers)["auroc"] == pytest.approx(100 - found["auroc"], abs=1e-12)


@pytest.mark.parametrize("levels", [None, 8])
def test_a_monotone_change_of_the_score_changes_only_the_accuracy_at_the_fixed_threshold(levels: int | None) -> None:
    inliers, outliers = sets(4, levels)
    found, changed = detection(inliers, outliers), detection(inliers**3 - 7, outliers**3 - 7)
    assert changed["det_acc"] == 50  # all scores are below 0.5 now
    assert found.pop("det_acc") > 55
    del changed["det_acc"]
    assert changed == found


def test_the_order_and_repetitions_of_images_change_nothing() -> None:
    inliers, outliers = sets(5, 30)
    found = detection(inliers, outliers)
    order = torch.randperm(len(inliers), generator=torch.Generator().manual_seed(0))
    assert detection(inliers[order], outliers.flip(0)) == found
    assert detection(inliers.repeat(3), outliers.repeat(3)) == pytest.approx(found)
    more = detection(inliers.repeat(4), outliers)  # prevalence counts in precision alone
    assert [more[key] for key in ("det_acc", "det_acc_best", "auroc")] == pytest.approx(
        [found[key] for key in ("det_acc", "det_acc_best", "auroc")]
    )
    assert more["aupr_id"] > found["aupr_id"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_scores_are_the_softmax_in_double_precision(dtype: torch.dtype) -> None:
    logits = (20 * torch.randn(50, 7, generator=torch.Generator().manual_seed(0))).to(dtype)
    scores = max_softmax(logits)
    assert scores.dtype == torch.float64
    for row, score in zip(logits.double().tolist(), scores.tolist(), strict=True):
        assert score == pytest.approx(1 / sum(math.exp(one - max(row)) for one in row), rel=1e-14)
    sure = max_softmax(torch.tensor([[25.0, 0, 0], [26.0, 0, 0], [600.0, 0, 0]]))
    assert sure[0] < sure[1] < sure[2] == 1  # in single precision all are 1
    assert max_softmax(torch.zeros(1, 8)) == 1 / 8


@pytest.mark.parametrize(
    ("logits", "message"),
    [
        (torch.tensor([[0.0, 1.0], [float("nan"), 1.0]]), "logits must be finite, got NaN or infinity in 1 of 2 rows"),
        (torch.tensor([[0.0, float("inf")]]), "in 1 of 1 rows"),
        (torch.zeros(4, 1), "at least 2 classes, got (4, 1): the softmax of one class is always 1"),
        (torch.zeros(4), "logits must be [N, C]"),
    ],
)
def test_logits_without_a_softmax_are_refused(logits: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        max_softmax(logits)


@pytest.mark.parametrize("bad", [torch.zeros(0), torch.tensor([0.5, float("nan")]), torch.zeros(2, 2)])
def test_sets_without_a_score_are_refused(bad: Tensor) -> None:
    for arguments, name in (((bad, torch.ones(2)), "inliers"), ((torch.ones(2), bad), "outliers")):
        with pytest.raises(ValueError, match=rf"{name} must be at least one score, \[N\], none of them NaN, got \("):
            detection(*arguments)


NOISE = pytest.mark.parametrize("noise", [uniform_noise, gaussian_noise])


@NOISE
def test_noise_depends_on_the_seed_and_the_row_alone(noise) -> None:  # type: ignore[no-untyped-def]
    whole = noise(range(12), SHAPE)
    assert whole.shape == (12, *SHAPE)
    assert whole.dtype == torch.float32
    assert torch.equal(torch.cat([noise(range(5), SHAPE), noise(range(5, 12), SHAPE)]), whole)
    assert torch.equal(noise([7, 2, 7], SHAPE), whole[[7, 2, 7]])
    assert noise([], SHAPE).shape == (0, *SHAPE)
    previous = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        assert torch.equal(noise(range(12), SHAPE), whole)
    finally:
        torch.set_default_dtype(previous)
    for first, second in itertools.combinations([*whole, *noise(range(3), SHAPE, seed=1)], 2):
        assert not torch.equal(first, second)


def test_noise_is_distributed_as_the_paper_says() -> None:
    uniform, gaussian, wide = (
        noise.double().flatten()
        for noise in (
            uniform_noise(range(20), (3, 32, 32)),
            gaussian_noise(range(20), (3, 32, 32)),
            gaussian_noise(range(20), (3, 32, 32), std=1),
        )
    )
    assert uniform.quantile(torch.tensor([0.1, 0.5, 0.9]).double()).tolist() == pytest.approx([0.1, 0.5, 0.9], abs=0.01)
    for noise, std in ((gaussian, 0.5), (wide, 1.0)):
        tail = 0.5 * math.erfc(0.5 / std / math.sqrt(2))  # below 0, and above 1
        assert (noise == 0).double().mean() == pytest.approx(tail, abs=0.01)
        assert (noise == 1).double().mean() == pytest.approx(tail, abs=0.01)
        quartile = 0.5 + std * 0.31864  # of the normal distribution, at 0.625
        assert noise.quantile(0.625) == pytest.approx(quartile, abs=0.01)


@NOISE
def test_noise_is_added_to_images_within_their_range(noise) -> None:  # type: ignore[no-untyped-def]
    images = torch.rand(6, *SHAPE, generator=torch.Generator().manual_seed(0))
    added = noise(range(6), SHAPE, images=images)
    assert added.dtype == torch.float32
    assert (added == 1).any()  # some sums are larger
    assert ((added >= 0) & (added <= 1)).all()
    assert torch.equal(noise(range(6), SHAPE, images=torch.zeros_like(images)), noise(range(6), SHAPE))
    assert torch.equal(noise(range(6), SHAPE, images=images.double()), added)
    assert torch.equal(noise([3], SHAPE, images=images[3:4]), added[3:4])


def test_images_that_noise_cannot_be_added_to_are_refused() -> None:
    for images in (torch.zeros(2, *SHAPE), torch.zeros(3, *SHAPE, dtype=torch.uint8)):
        with pytest.raises(ValueError, match=r"images must be floats \(3, 3, 4, 5\) in \[0, 1\], one of each row, got"):
            uniform_noise(range(3), SHAPE, images=images)
