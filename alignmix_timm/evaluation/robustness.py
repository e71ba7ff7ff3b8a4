"""Robustness to adversarial perturbations (AlignMix, Table 2): FGSM and PGD on pixels in [0, 1], with true labels.

The protocol is that of PuzzleMix, which the paper follows. A network is a function from pixels in [0, 1] to logits that
normalizes by itself, so that radii are those of pixels. It must be in eval mode and compute in float32 throughout
(without autocast or TF32). Its gradients are taken with respect to the pixels only: ``grad`` of parameters is left as
it is, and frozen parameters are welcome.

A low error alone is no proof of robustness. Where softmax saturates, gradients are exactly zero in float32, and an
attack that follows them stays where it is: the network masks its gradients, and stronger attacks would succeed. So the
share of images without a gradient stands beside each error.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .metric import Metric

Logits = Callable[[Tensor], Tensor]

_ZERO = "Images whose gradient is zero in every pixel {}, so that the attack stops there (gradient masking), %."
_PGD = (
    "Top-1 error on PGD images (Madry et al., 2018): from a random start within the radius, {} steps along the sign of "
    "the gradient of the cross-entropy with the true label, each projected onto the radius (max norm) and [0, 1], %."
)

METRICS = (
    Metric("clean_error", "clean error %", "lower", "Top-1 error on the images as they are, %."),
    Metric(
        "fgsm_error",
        "FGSM error %",
        "lower",
        "Top-1 error on FGSM images (Goodfellow et al., 2015): one step of the radius along the sign of the gradient "
        "of the cross-entropy with the true label, clipped to [0, 1], %.",
    ),
    Metric("pgd_error", "PGD error %", "lower", _PGD.format("all")),
    Metric("pgd7_error", "PGD-7 error %", "lower", _PGD.format("the first 7")),
    Metric("pgd10_error", "PGD-10 error %", "lower", _PGD.format("the first 10")),
    Metric("fgsm_zero_gradient", "no gradient, FGSM %", None, _ZERO.format("at the clean image")),
    Metric("pgd_zero_gradient", "no gradient, PGD %", None, _ZERO.format("at some step of PGD")),
    Metric(
        "attacked_nan_logits",
        "NaN logits when attacked %",
        "lower",
        "Images with a NaN among their logits, clean or attacked; these count as errors, %.",
    ),
)


class Attacked(NamedTuple):
    """Images after an attack, and what the network said on the way.

    Attributes:
        pixels: The adversarial images, [N, C, H, W] in [0, 1].
        correct: Whether the highest logit is that of the label, at the start and after each step: [N, steps + 1] bool.
            False where a logit is NaN.
        zero_gradient: Whether the gradient was zero in every pixel at some step, [N] bool. NaN counts as zero.
        nan_logits: Whether a logit was NaN at the start or after some step, [N] bool.
    """

    pixels: Tensor
    correct: Tensor
    zero_gradient: Tensor
    nan_logits: Tensor


def fgsm(logits: Logits, pixels: Tensor, labels: Tensor, radius: float = 8 / 255) -> Attacked:
    """One step of ``radius`` along the sign of the gradient, from the images themselves; the rest as :func:`pgd`."""
    return pgd(logits, pixels, labels, torch.zeros_like(pixels), radius, radius, 1)


def pgd(
    logits: Logits,
    pixels: Tensor,
    labels: Tensor,
    noise: Tensor,
    radius: float = 4 / 255,
    step: float = 2 / 255,
    steps: int = 20,
) -> Attacked:
    """Projected gradient ascent on the cross-entropy, within ``radius`` of each pixel; the last images are returned.

    The result of an image depends on the other images of the batch no more than the network's logits do: not at all
    in eval mode, but for rounding.

    Args:
        logits: The network: [N, C, H, W] in [0, 1] to [N, classes].
        pixels: Clean images, [N, C, H, W] in [0, 1].
        labels: Class indices, [N].
        noise: Where to start: ``pixels + radius * noise``, clipped to [0, 1]. Shaped as ``pixels``, in [-1, 1], such
            as that of :func:`start_noise`.
        radius: Largest change of a pixel.
        step: Change of a pixel in one step. Pixels whose gradient is zero stay.
        steps: Steps, at least one.

    Raises:
        ValueError: pixels, noise, labels or numbers out of their range, or a network that is in training mode, computes
            in half precision or has no gradient.
    """
    _check(logits, pixels, labels, noise, radius, step, steps)
    low, high = (pixels - radius).clamp(min=0), (pixels + radius).clamp(max=1)
    moved = (pixels + radius * noise.to(pixels)).clamp(0, 1)
    correct = []
    zero_gradient = nan_logits = torch.zeros(len(pixels), dtype=torch.bool, device=pixels.device)
    for _ in range(steps):
        scores, gradient = _gradient(logits, moved, labels)
        correct.append(_correct(scores, labels))
        nan_logits = nan_logits | scores.isnan().any(1)
        zero_gradient = zero_gradient | ~gradient.flatten(1).any(1)
        moved = (moved + step * gradient.sign()).clamp(low, high)
    with torch.no_grad():
        scores = logits(moved)
    correct.append(_correct(scores, labels))
    return Attacked(moved, torch.stack(correct, 1), zero_gradient, nan_logits | scores.isnan().any(1))


def recorded(single: Attacked, repeated: Attacked) -> dict[str, Tensor]:
    """What :func:`summary` needs of each image, from FGSM and PGD on the same ones: bool, [N, steps + 1] or [N]."""
    return {
        "fgsm_correct": single.correct,
        "pgd_correct": repeated.correct,
        "fgsm_zero_gradient": single.zero_gradient,
        "pgd_zero_gradient": repeated.zero_gradient,
        "attacked_nan_logits": single.nan_logits | repeated.nan_logits,
    }


def summary(rows: Mapping[str, Tensor]) -> dict[str, float]:
    """The values of :data:`METRICS`, in percent.

    Args:
        rows: Of each image what :func:`recorded` returns.

    Returns:
        By key. The errors after 7 and 10 steps are left out where PGD made fewer.

    Raises:
        ValueError: no rows.
    """
    single, repeated = (rows[key].double() for key in ("fgsm_correct", "pgd_correct"))
    if not len(single):
        raise ValueError("there is no row to evaluate.")
    error = 100 * (1 - repeated.mean(0))
    values = {"clean_error": 100 * (1 - single[:, 0].mean()), "fgsm_error": 100 * (1 - single[:, 1].mean())}
    values["pgd_error"] = error[-1]
    values |= {f"pgd{steps}_error": error[steps] for steps in (7, 10) if steps < len(error)}
    shares = ("fgsm_zero_gradient", "pgd_zero_gradient", "attacked_nan_logits")
    values |= {key: 100 * rows[key].double().mean() for key in shares}
    return {key: float(value) for key, value in values.items()}


def start_noise(seed: int, rows: Iterable[int], shape: tuple[int, ...]) -> Tensor:
    """Uniform noise in [-1, 1) of each row, [N, *shape] float32, which depends on the seed and the row alone.

    Raises:
        ValueError: a negative seed or row.
    """
    keys = (np.random.SeedSequence(seed, spawn_key=(row,)) for row in rows)
    draws = [np.random.default_rng(key).random(shape, dtype=np.float32) for key in keys]
    return 2 * torch.from_numpy(np.stack(draws)) - 1 if draws else torch.zeros(0, *shape)


def _gradient(logits: Logits, pixels: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The network's logits, and the gradient of each image's cross-entropy with respect to its pixels."""
    with torch.inference_mode(False), torch.enable_grad():
        inputs = pixels.clone().requires_grad_()
        scores = logits(inputs)
        if scores.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"logits must be computed in float32, got {scores.dtype}: leave out autocast and half().")
        if not scores.requires_grad:
            raise ValueError("logits must have a gradient with respect to pixels: leave out no_grad() and detach().")
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < scores.shape[1]:
            raise ValueError(
                f"labels must be in [0, {scores.shape[1]}), the classes of the network, got values in "
                f"[{int(labels.min())}, {int(labels.max())}]."
            )
        loss = F.cross_entropy(scores, labels, reduction="sum")  # a mean would shrink gradients as batches grow
        (gradient,) = torch.autograd.grad(loss, inputs, materialize_grads=True)
    return scores.detach(), gradient.nan_to_num(0.0)


def _correct(scores: Tensor, labels: Tensor) -> Tensor:
    return scores.argmax(1).eq(labels) & ~scores.isnan().any(1)


def _check(
    logits: Logits, pixels: Tensor, labels: Tensor, noise: Tensor, radius: float, step: float, steps: int
) -> None:
    if isinstance(logits, nn.Module) and any(module.training for module in logits.modules()):
        raise ValueError("logits must be a network in eval mode, got one in training mode: call eval().")
    if not pixels.is_floating_point() or pixels.ndim != 4 or not bool(((pixels >= 0) & (pixels <= 1)).all()):
        raise ValueError(
            f"pixels must be floats [N, C, H, W] in [0, 1], got {pixels.dtype} {tuple(pixels.shape)}"
            + (f" in [{pixels.min()}, {pixels.max()}]" if pixels.numel() else "")
            + ": divide bytes by 255, and leave normalization to the network."
        )
    if labels.shape != pixels.shape[:1] or labels.is_floating_point():
        raise ValueError(f"labels must be class indices [{len(pixels)}], got {labels.dtype} {tuple(labels.shape)}.")
    if noise.shape != pixels.shape or not bool((noise.abs() <= 1).all()):
        raise ValueError(f"noise must be {tuple(pixels.shape)} in [-1, 1], got {tuple(noise.shape)}.")
    if not (0 <= radius < float("inf") and 0 <= step < float("inf")):
        raise ValueError(f"radius and step must be at least 0 and finite, got {radius} and {step}.")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}.")
