import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error
from torchmetrics.functional.classification.calibration_error import _binning_bucketize

from alignmix_timm.evaluation.accuracy import no_scores, reliability, scores, summary
from alignmix_timm.evaluation.calibration import confidence_bins, expected_calibration_error


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("num_bins", [10, 15])
def test_agrees_with_torchmetrics(seed: int, num_bins: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(500, 7, generator=generator)
    labels = torch.randint(7, (500,), generator=generator)
    expected = multiclass_calibration_error(logits.softmax(1), labels, 7, n_bins=num_bins)
    assert expected_calibration_error(logits, labels, num_bins) == pytest.approx(float(expected), abs=1e-6)


def test_known_answers() -> None:
    sure = torch.tensor([[50.0, 0.0], [50.0, 0.0]])
    assert expected_calibration_error(sure, torch.tensor([0, 0])) == pytest.approx(0)
    assert expected_calibration_error(sure, torch.tensor([0, 1])) == pytest.approx(0.5)


def test_bad_shapes_are_named() -> None:
    with pytest.raises(ValueError, match=r"logits must be \[N, C\] and labels \[N\], got"):
        expected_calibration_error(torch.zeros(3, 2), torch.zeros(4))


def some_logits(rows: int = 500, scale: float = 3.0, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(rows, 7, generator=generator), torch.randint(7, (rows,), generator=generator)


@pytest.mark.parametrize("num_bins", [10, 15])
@pytest.mark.parametrize("scale", [0.1, 3.0, 40.0])  # hardly any bin, all of them, nearly all images in the last
def test_bins_are_those_of_a_loop_and_of_torchmetrics(scale: float, num_bins: int) -> None:
    logits, labels = some_logits(scale=scale)
    bins = confidence_bins(logits, labels, num_bins)
    looped = np.zeros((3, num_bins))
    for row, label in zip(logits.double().numpy(), labels.tolist(), strict=True):
        shares = np.exp(row - row.max()) / np.exp(row - row.max()).sum()
        place = next(place for place in range(num_bins) if shares.max() <= (place + 1) / num_bins)
        looped[:, place] += (1, shares.argmax() == label, shares.max())
    assert bins[:2].tolist() == looped[:2].tolist()
    assert np.allclose(bins[2], looped[2], atol=1e-12)
    highest, predicted = logits.double().softmax(1).max(1)
    edges = torch.linspace(0, 1, num_bins + 1, dtype=torch.float64)
    accuracy, mean, share = _binning_bucketize(highest, predicted.eq(labels).double(), edges)
    theirs = len(labels) * torch.stack([share, accuracy * share, mean * share])
    theirs[:, -2] += theirs[:, -1]  # it has a bin more, for a confidence of exactly 1
    assert torch.allclose(bins, theirs[:, :-1], atol=1e-9)


def test_sums_over_batches_are_those_of_the_whole_and_agree_with_the_calibration_error() -> None:
    logits, labels = some_logits()
    whole = scores(logits, labels)
    parts = sum((scores(*part) for part in zip(logits.split(33), labels.split(33), strict=True)), no_scores())
    assert torch.allclose(parts, whole, rtol=0, atol=1e-10)
    bins = reliability(parts)
    assert bins["examples"] == reliability(whole)["examples"]
    assert bins["correct"] == reliability(whole)["correct"]
    assert sum(bins["examples"]) == 500
    assert 100 * sum(bins["correct"]) / 500 == pytest.approx(summary(parts)["top1"])
    gaps = np.abs(np.array(bins["correct"]) - bins["confidence"])
    assert 100 * gaps.sum() / 500 == pytest.approx(summary(parts)["ece"], abs=1e-4)
    assert summary(parts)["ece"] == pytest.approx(100 * expected_calibration_error(logits, labels))


def test_the_bins_have_sharp_edges() -> None:
    """A confidence of 1 is in the last bin, and one on an edge in the bin below it."""
    logits = torch.tensor([[100.0, 0.0], [0.0, 0.0]])
    examples, correct, confidence = confidence_bins(logits, torch.tensor([0, 1]), num_bins=4)
    assert examples.tolist() == [0, 1, 0, 1]
    assert correct.tolist() == [0, 0, 0, 1]
    assert confidence.tolist() == [0, 0.5, 0, 1]
