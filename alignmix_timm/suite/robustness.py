"""The part ``robustness``: top-1 error on adversarial images, by FGSM and PGD."""

import argparse
import contextlib
import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ..evaluation.adversarial_figure import Attack, draw_adversarial
from ..evaluation.plotting import save_figure
from ..evaluation.robustness import METRICS, Attacked, fgsm, pgd, recorded, start_noise, summary
from .class_names import class_names
from .context import Context
from .part import Part, Values

_PICTURE, _SHOWN = "robustness.png", 5
_MASKED = 1.0  # percent of images without a gradient from which on a sentence warns


class Robustness(Part):
    name = "robustness"
    help = "top-1 error on adversarial images, by FGSM and PGD"
    metrics = METRICS

    def add_options(self, group: Any) -> None:
        for name, default, what in (
            ("fgsm-radius", "8/255", "largest change of a pixel in [0, 1] by FGSM"),
            ("pgd-radius", "4/255", "the same by PGD"),
            ("pgd-step", "2/255", "change of a pixel in a step of PGD"),
        ):
            text = f"{what}; default {default}"
            group.add_argument(f"--robustness-{name}", type=_change, default=default, metavar="R", help=text)
        text = "steps of PGD; default 20"
        group.add_argument("--robustness-pgd-steps", type=int, default=20, metavar="N", help=text)

    def settings(self, options: argparse.Namespace) -> dict[str, Any]:
        if options.robustness_pgd_steps < 1:
            raise ValueError(f"--robustness-pgd-steps must be at least 1, got {options.robustness_pgd_steps}.")
        names = ("fgsm_radius", "pgd_radius", "pgd_step", "pgd_steps")
        return {name: getattr(options, f"robustness_{name}") for name in names}

    def measure(self, context: Context) -> dict[str, Tensor]:
        def of_batch(pixels: Tensor, rows: Tensor) -> dict[str, Tensor]:
            with _steps_shown(context):
                return recorded(*_attack(context, pixels, rows))

        measured = context.over(context.images, of_batch, self.name)
        masked = 100 * float(measured["pgd_zero_gradient"].double().mean())
        if masked >= _MASKED:
            context.say(
                f"PGD met gradients of exactly zero on {masked:.0f} % of the images, and stopped there: other attacks "
                "may make more errors."
            )
        return measured

    def summary(self, measured: dict[str, Tensor], settings: dict[str, Any]) -> Values:
        return {**summary(measured)}

    def draw(self, measured: dict[str, Tensor], values: Values, context: Context, folder: Path) -> list[str]:
        assert context.labels is not None
        rows = _worth_seeing(measured["pgd_correct"][:, -1].logical_not() & measured["fgsm_correct"][:, 0])
        pixels = torch.stack([context.images[row] for row in rows.tolist()]).to(context.device)
        single, repeated = _attack(context, pixels, rows)
        options = context.options
        attacks = [
            Attack("FGSM", single.pixels, options.robustness_fgsm_radius),
            Attack("PGD", repeated.pixels, options.robustness_pgd_radius),
        ]
        figure = draw_adversarial(pixels, attacks, context.subject.model, context.labels[rows], class_names(context))
        save_figure(figure, folder / _PICTURE)
        return [_PICTURE]


@contextlib.contextmanager
def _steps_shown(context: Context) -> Iterator[None]:
    """A progress bar of the network's passes over one batch, of which there are many."""
    passes = context.options.robustness_pgd_steps + 3  # FGSM: two; PGD: one more than steps
    hidden = not context.accelerator.is_main_process
    with tqdm(total=passes, desc="passes over the batch", position=1, leave=False, disable=hidden) as bar:
        counting = context.subject.model.register_forward_hook(lambda *_: bar.update() and None)
        try:
            yield
        finally:
            counting.remove()


def _attack(context: Context, pixels: Tensor, rows: Tensor) -> tuple[Attacked, Attacked]:
    """Rows of the images by FGSM and by PGD."""
    assert context.labels is not None
    options, model = context.options, context.subject.model
    labels = context.labels[rows].to(pixels.device)
    noise = start_noise(options.seed, rows.tolist(), tuple(pixels.shape[1:]))
    single = fgsm(model, pixels, labels, options.robustness_fgsm_radius)
    radius, step = options.robustness_pgd_radius, options.robustness_pgd_step
    return single, pgd(model, pixels, labels, noise, radius, step, options.robustness_pgd_steps)


def _worth_seeing(fooled: Tensor) -> Tensor:
    """The first rows that were right until they were attacked, [N] bool; further rows where these are too few."""
    return fooled.logical_not().to(torch.uint8).argsort(stable=True)[:_SHOWN]


def _change(text: str) -> float:
    try:
        value = float(Fraction(text))
    except (ValueError, ZeroDivisionError, OverflowError):
        value = math.nan
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be a number in [0, 1], such as 8/255 or 0.03, got {text!r}")
    return value
