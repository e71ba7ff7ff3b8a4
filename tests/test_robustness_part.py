"""``alignmix-timm evaluate --suite robustness``."""

from pathlib import Path

import datasets
import pytest
import torch
from test_evaluate import evaluate, refused, rows, save_data, save_model, values

from alignmix_timm.evaluation.robustness import METRICS, fgsm, pgd, start_noise
from alignmix_timm.suite.subject import load_subject

PART = ("--suite", "accuracy", "robustness", "--robustness-pgd-steps", 3, "--robustness-fgsm-radius", "1/4")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("trained") / "model")


@pytest.fixture(scope="module")
def data(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven images with the labels that the model gives them, and one with another label."""
    subject, images = load_subject(str(model)), rows(8)
    with torch.no_grad():
        labels = subject.model(torch.stack([subject.transform(image) for image in images["image"]])).argmax(1)
    labels[5] = (labels[5] + 1) % 3
    images = images.remove_columns("label").add_column("label", labels.tolist(), feature=rows(1).features["label"])
    return save_data(tmp_path_factory.mktemp("data") / "noise", test=images)


def test_the_numbers_are_those_of_the_attacks(model: Path, data: Path, tmp_path: Path) -> None:
    radii = ("--robustness-pgd-radius", 0.125, "--robustness-pgd-step", "1/16")
    content = evaluate(model, "--data", data, *PART, *radii, "--batch-size", 3, "--seed", 4, "--out", tmp_path / "out")
    subject, split = load_subject(str(model)), datasets.load_from_disk(str(data))["test"]
    pixels, labels = torch.stack([subject.transform(image) for image in split["image"]]), torch.tensor(split["label"])
    noise = start_noise(4, range(8), (3, 32, 32))
    single = fgsm(subject.model, pixels, labels, radius=1 / 4)
    repeated = pgd(subject.model, pixels, labels, noise, radius=1 / 8, step=1 / 16, steps=3)
    found = values(content)
    assert found["clean_error"] == found["top1_error"] == 100 / 8
    assert found["fgsm_error"] == 100 * (~single.correct[:, 1]).double().mean() > found["clean_error"]
    assert found["pgd_error"] == 100 * (~repeated.correct[:, 3]).double().mean() > found["clean_error"]
    part = content["parts"]["robustness"]
    assert part["values"].keys() == {metric.key for metric in METRICS} - {"pgd7_error", "pgd10_error"}
    assert part["settings"] == dict(seed=4, fgsm_radius=1 / 4, pgd_radius=1 / 8, pgd_step=1 / 16, pgd_steps=3)
    assert part["pictures"] == ["robustness.png"]
    assert (tmp_path / "out" / "robustness.png").read_bytes().startswith(b"\x89PNG")


def test_nan_logits_are_errors_and_have_no_gradient(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = save_model(tmp_path / "model", bias=float("nan"))
    found = values(evaluate(broken, "--data", data, "--suite", "robustness", "--robustness-pgd-steps", 1, "--rows", 2))
    keys = ("clean_error", "fgsm_error", "pgd_error", "fgsm_zero_gradient", "pgd_zero_gradient", "attacked_nan_logits")
    assert found == dict.fromkeys(keys, 100)
    assert "PGD met gradients of exactly zero on 100 % of the images" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("fgsm-radius", "8", "must be a number in [0, 1], such as 8/255 or 0.03, got '8'"),
        ("pgd-radius", "-0.1", "must be a number in [0, 1]"),
        ("pgd-step", "1/0", "must be a number in [0, 1]"),
        ("pgd-step", "nan", "must be a number in [0, 1]"),
        ("pgd-steps", "0", "--robustness-pgd-steps must be at least 1, got 0."),
    ],
)
def test_bad_options_are_said(
    option: str, value: str, message: str, model: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(capsys, model, "--data", data, f"--robustness-{option}={value}")
