"""Everything that the paper measures of one network, taken at once: error, calibration, robustness, OOD detection."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..evaluation import calibration, ood, robustness
from ..evaluation.pixel_model import PixelModel
from .images import Images

BATCH = 250


def measure_all(
    model: PixelModel, test: Images, outliers: Mapping[str, Tensor] | None, attacked: int, seed: int = 0
) -> dict[str, Any]:
    """All measures of a network, in percent but for the NLL.

    Args:
        model: On the device of the images.
        test: The test images, all of them but for the attacks.
        outliers: Pixels of out-of-distribution images by the name of their set, [N, C, H, W] uint8. As many images of
            uniform and Gaussian noise as there are test images, at most 10,000, come on top. None detects nothing.
        attacked: Number of test images that FGSM and PGD attack, evenly spread over all.
        seed: Of the noise, the same for all networks that are compared.

    Raises:
        FloatingPointError: a logit is NaN or infinite, where nothing attacks.
    """
    logits = _logits(model, test.pixels)
    rows = calibration.row_scores(logits, test.labels)
    found = calibration.summary(rows)
    result: dict[str, Any] = {"error": 100 - found["accuracy"], **found, **attack(model, test, attacked, seed)}
    result["bins"] = calibration.bin_lists(calibration.bin_sums(rows[:, 0], rows[:, 1]))
    result["images"] = {"test": len(test), "attacked": min(attacked, len(test))}
    if outliers is not None:
        sets = {name: _logits(model, pixels) for name, pixels in outliers.items()}
        sets |= {name: _noise_logits(model, noise, test, seed) for name, noise in ood.NOISE.items()}
        inliers = ood.max_softmax(logits)
        result["ood"] = {name: ood.detection(inliers, ood.max_softmax(scores)) for name, scores in sets.items()}
        result["images"] |= {name: len(scores) for name, scores in sets.items()}
    return result


def attack(model: PixelModel, test: Images, count: int, seed: int) -> dict[str, float]:
    """Errors under FGSM and PGD, of ``count`` test images."""
    index = torch.linspace(0, len(test) - 1, min(count, len(test))).round().long()
    parts: dict[str, list[Tensor]] = {}
    for part in index.split(BATCH):
        pixels, labels = _unit(test.pixels[part]), test.labels[part]
        noise = robustness.start_noise(seed, part.tolist(), tuple(pixels.shape[1:])).to(pixels.device)
        once = robustness.fgsm(model, pixels, labels)
        rows = robustness.recorded(once, robustness.pgd(model, pixels, labels, noise))
        for name, values in rows.items():
            parts.setdefault(name, []).append(values)
    found = robustness.summary({name: torch.cat(values) for name, values in parts.items()})
    return {_key(name): value for name, value in found.items() if name != "clean_error"}


def _key(name: str) -> str:
    return name.removesuffix("_error").removeprefix("attacked_")


@torch.no_grad()
def _logits(model: PixelModel, pixels: Tensor) -> Tensor:
    return _finite([model(_unit(part)) for part in pixels.split(BATCH)])


@torch.no_grad()
def _noise_logits(model: PixelModel, noise: Any, test: Images, seed: int) -> Tensor:
    rows = torch.arange(min(len(test), 10_000)).split(BATCH)
    return _finite([model(noise(part.tolist(), test.size, seed).to(test.pixels.device)) for part in rows])


def _finite(parts: list[Tensor]) -> Tensor:
    logits = torch.cat(parts).float()
    if not logits.isfinite().all():
        raise FloatingPointError("training diverged, the logits of the network are not finite.")
    return logits


def _unit(pixels: Tensor) -> Tensor:
    return pixels.float() / 255
