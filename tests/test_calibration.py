"""Calibration against torchmetrics, literal loops, and what must hold of any network."""

import math
import re

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error
from torchmetrics.functional.classification.calibration_error import _binning_bucketize

from alignmix_timm.evaluation.accuracy import no_scores, reliability, scores, summary
from alignmix_timm.evaluation.calibration import (
    METRICS,
    bin_lists,
    bin_sums,
    calibration_error,
    confidence_bins,
    expected_calibration_error,
    overconfidence_error,
    row_scores,
)
from alignmix_timm.evaluation.calibration import summary as calibration
from alignmix_timm.evaluation.reliability import reliability_diagrams


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("num_bins", [1, 10, 15, 100])
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


@pytest.mark.parametrize("num_bins", [10, 15, 100])
def test_confidences_on_the_edges_of_bins_are_in_the_bin_below(num_bins: int) -> None:
    for place in range(1, num_bins + 1):
        edge = torch.tensor([place / num_bins], dtype=torch.float64)
        around = torch.cat([edge, edge.nextafter(torch.zeros(1).double()), edge.nextafter(torch.ones(1).double())])
        counts = bin_sums(around, torch.zeros(3), num_bins)[0]
        assert counts[place - 1] == (3 if place == num_bins else 2), place
        assert counts.sum() == 3
    assert bin_sums(torch.zeros(1).double(), torch.zeros(1), num_bins)[0, 0] == 1


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_a_uniform_prediction_is_as_confident_as_chance_also_for_torchmetrics(classes: int) -> None:
    logits, labels = torch.zeros(60, classes), torch.arange(60) % 2
    assert confidence_bins(logits, labels, 10)[2].sum() == pytest.approx(60 / classes)
    for num_bins in (10, 15, 100):
        theirs = float(multiclass_calibration_error(logits.softmax(1), labels, classes, n_bins=num_bins))
        right = float(logits.argmax(1).eq(labels).double().mean())
        ours = expected_calibration_error(logits, labels, num_bins)
        assert ours == pytest.approx(abs(right - 1 / classes)) == pytest.approx(theirs, abs=1e-6)


def literal(logits: torch.Tensor, labels: torch.Tensor, num_bins: int) -> tuple[float, float]:
    """Expected calibration error and overconfidence error, image by image and bin by bin."""
    gap = over = 0.0
    images = []
    for row, label in zip(logits.double().tolist(), labels.tolist(), strict=True):
        exponents = [math.exp(one - max(row)) for one in row]
        images.append((max(exponents) / sum(exponents), exponents.index(max(exponents)) == label))
    for place in range(num_bins):
        inside = [(c, right) for c, right in images if place / num_bins < c <= (place + 1) / num_bins]
        if inside:
            confidence = sum(c for c, _ in inside) / len(inside)
            accuracy = sum(right for _, right in inside) / len(inside)
            gap += len(inside) / len(images) * abs(accuracy - confidence)
            over += len(inside) / len(images) * confidence * max(confidence - accuracy, 0)
    return gap, over


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("num_bins", [1, 10, 15, 100])
@pytest.mark.parametrize("scale", [0.1, 3.0, 40.0])
def test_both_errors_are_those_of_a_loop(scale: float, num_bins: int, seed: int) -> None:
    logits, labels = some_logits(200, scale, seed)
    gap, over = literal(logits, labels, num_bins)
    bins = confidence_bins(logits, labels, num_bins)
    assert float(calibration_error(bins)) == pytest.approx(gap, abs=1e-12)
    assert float(overconfidence_error(bins)) == pytest.approx(over, abs=1e-12)
    assert 0 <= over <= gap <= 1
    if num_bins == 1:
        examples, correct, confidence = bins.flatten().tolist()
        assert gap == pytest.approx(abs(correct - confidence) / examples)


def test_a_network_that_is_nowhere_overconfident_has_no_overconfidence_error() -> None:
    logits, _ = some_logits(300, 1.0)
    bins = confidence_bins(logits, logits.argmax(1))
    assert float(overconfidence_error(bins)) == 0
    assert float(calibration_error(bins)) > 0.3
    surely_wrong = confidence_bins(*map(torch.tensor, ([[50.0, 0.0]], [1])))
    assert float(overconfidence_error(surely_wrong)) == pytest.approx(1)


def test_the_summary_of_rows_is_that_of_the_logits() -> None:
    logits, labels = some_logits()
    found = calibration(row_scores(logits, labels))
    assert list(found) == [metric.key for metric in METRICS]
    for suffix, num_bins in (("", 15), ("_10", 10)):
        gap, over = literal(logits, labels, num_bins)
        assert found["ece" + suffix] == pytest.approx(100 * gap)
        assert found["oe" + suffix] == pytest.approx(100 * over)
    assert found["accuracy"] == pytest.approx(summary(scores(logits, labels))["top1"])
    probabilities = logits.double().softmax(1)
    assert found["confidence"] == pytest.approx(100 * float(probabilities.amax(1).mean()))
    brier = loss = 0.0
    for row, label in zip(probabilities.tolist(), labels.tolist(), strict=True):
        loss -= math.log(row[label]) / len(labels)
        brier += sum((one - (place == label)) ** 2 for place, one in enumerate(row)) / len(labels)
    assert found["nll"] == pytest.approx(loss)
    assert found["brier"] == pytest.approx(brier)
    best, worst = (row_scores(torch.tensor([[50.0, 0.0]]), torch.tensor([label])) for label in (0, 1))
    assert calibration(best)["brier"] == pytest.approx(0)
    assert calibration(worst)["brier"] == pytest.approx(2)


def test_names_of_classes_and_the_order_and_repetition_of_images_change_nothing() -> None:
    logits, labels = some_logits()
    rows = row_scores(logits, labels)
    found = calibration(rows)
    generator = torch.Generator().manual_seed(1)
    names, order = torch.randperm(7, generator=generator), torch.randperm(500, generator=generator)
    renamed = row_scores(logits[:, names], names.argsort()[labels])
    for same in (renamed, rows[order], rows.repeat(3, 1)):
        assert calibration(same) == pytest.approx(found)
    parts = [row_scores(*part) for part in zip(logits.split(33), labels.split(33), strict=True)]
    assert torch.equal(torch.cat(parts), rows)


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (torch.tensor([[0.0, math.nan]]), torch.tensor([0]), "logits must be finite, got NaN or infinity"),
        (torch.zeros(2, 1), torch.zeros(2).long(), "logits must be of at least 2 classes, got 1"),
        (torch.zeros(2, 3), torch.tensor([0, 3]), "labels must be in 0 ... 2, the classes of the logits, got 0 to 3"),
        (torch.zeros(2, 3), torch.tensor([-1, 1]), "got -1 to 1"),
        (torch.zeros(2, 3), torch.tensor([0]), "logits must be [N, C] and labels [N], got (2, 3) and (1,)"),
    ],
)
def test_what_has_no_calibration_is_refused(logits: torch.Tensor, labels: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        row_scores(logits, labels)


def test_no_images_and_no_bins_are_refused() -> None:
    with pytest.raises(ValueError, match="there is no image"):
        calibration(row_scores(torch.zeros(0, 3), torch.zeros(0).long()))
    with pytest.raises(ValueError, match="there is no image"):
        expected_calibration_error(torch.zeros(0, 3), torch.zeros(0).long())
    with pytest.raises(ValueError, match="num_bins must be at least 1, got 0"):
        expected_calibration_error(*some_logits(), 0)


def test_diagrams_of_several_models_stand_side_by_side_and_show_their_means() -> None:
    models = {f"model {seed} $": bin_lists(confidence_bins(*some_logits(60, 2.0, seed))) for seed in range(6)}
    figure = reliability_diagrams(models, "CIFAR-100")
    assert [axes.get_title() for axes in figure.axes if axes.get_title()] == list(models)
    assert len(figure.axes) == 2 * len(models)
    histograms = [axes for axes in figure.axes if axes.get_xlabel() == "confidence"]
    for axes, bins in zip(histograms, models.values(), strict=True):
        shares = [bar.get_height() for bar in axes.patches]
        assert shares == pytest.approx([count / 60 for count in bins["examples"]])
        means = {line.get_label(): line.get_xdata()[0] for line in axes.lines}
        assert means["mean accuracy"] == pytest.approx(sum(bins["correct"]) / 60)
        assert means["mean confidence"] == pytest.approx(sum(bins["confidence"]) / 60)
    figure.canvas.draw()


def test_diagrams_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="models must be at least one"):
        reliability_diagrams({})
    with pytest.raises(ValueError, match="the bins of 'empty' hold no image"):
        reliability_diagrams({"empty": bin_lists(torch.zeros(3, 15).double())})
