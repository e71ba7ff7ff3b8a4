"""The part ``ood``: does low confidence tell images of other data, and noise, from those of the data?"""

import argparse
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..evaluation.confidence_figure import confidence_histograms
from ..evaluation.ood import METRICS, NOISE, detection, max_softmax
from ..evaluation.plotting import save_figure
from .context import Context
from .outliers import FITS, check_logits, check_others, load_set, parse_sets, pixels_of
from .part import Part, Values, needs_classes, needs_finite_logits

_DATA = ""  # the key of the scores of the data; sets have names


class OutOfDistribution(Part):
    name = "ood"
    help = "detection of images of other data, and of noise, by low confidence"
    metrics = METRICS

    def add_options(self, group: Any) -> None:
        group.add_argument(
            "--ood-outliers",
            nargs="+",
            metavar="SET",
            default=list(NOISE),
            help=f"{', '.join(NOISE)}, NAME=DATA, NAME=DATA:SPLIT, either of these followed by ,config=CONFIG or "
            f",image=COLUMN; DATA needs no labels; default {' '.join(NOISE)}",
        )
        group.add_argument(
            "--ood-fit", choices=FITS, default="resize", help="how images of DATA get the model's size; default resize"
        )
        group.add_argument(
            "--ood-noise-std", type=float, default=0.5, help="of gaussian, before it is clamped; default 0.5; ODIN: 1"
        )
        group.add_argument("--ood-additive", action="store_true", help="add noise to the images of --data")

    def settings(self, options: argparse.Namespace) -> dict[str, Any]:
        sets = parse_sets(options.ood_outliers)
        if not 0 < options.ood_noise_std < math.inf:
            raise ValueError(f"ood_noise_std must be > 0 and finite, got {options.ood_noise_std}.")
        load_set.cache_clear()  # of a former command in this process
        rows, seed = options.rows, options.seed
        return {
            "outliers": {one.name: load_set(one, rows, seed).described if one.data else "noise" for one in sets},
            "fit": options.ood_fit,
            "noise_std": options.ood_noise_std,
            "additive": options.ood_additive,
        }

    def obstacle(self, context: Context) -> str | None:
        """As of every part; data that cannot serve as outliers are an error."""
        check_others([one for one in parse_sets(context.options.ood_outliers) if one.data is not None], context)
        return needs_classes(self.name, context) or needs_finite_logits(self.name, context)

    def measure(self, context: Context) -> dict[str, Tensor]:
        measured = {_DATA: max_softmax(context.logits)}
        for one in parse_sets(context.options.ood_outliers):
            pixels = pixels_of(one, context)
            try:
                with torch.no_grad():
                    found = context.over(pixels, lambda images, _: {"logits": context.subject.model(images)}, one.name)
                measured[one.name] = max_softmax(found["logits"])
            except ValueError as error:
                raise ValueError(f"the outliers {one.name!r} have no confidences: {error}") from error
            check_logits(one.name, context.logits, found["logits"])
        return measured

    def summary(self, measured: dict[str, Tensor], settings: dict[str, Any]) -> Values:
        return {
            f"{name}/{key}": value
            for name, scores in measured.items()
            if name != _DATA
            for key, value in detection(measured[_DATA], scores).items()
        }

    def draw(self, measured: dict[str, Tensor], values: Values, context: Context, folder: Path) -> list[str]:
        titles = {f"{name}: AUROC {values[f'{name}/auroc']:.1f} %": name for name in measured if name != _DATA}
        sets = {title: measured[name] for title, name in titles.items()}
        save_figure(confidence_histograms(measured[_DATA], sets), folder / "ood.png")
        return ["ood.png"]
