import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

from alignmix_timm.evaluation.calibration import expected_calibration_error


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
