"""Does it matter which positions are mixed? AlignMix against mixing in place, and against two controls.

    python recipes/compare_assignments.py --data path/or/name --head flatten --modes A
    python recipes/compare_assignments.py --table

Arms: the same position of the partner (``none``); the positions that optimal transport assigns, at several epsilons and
in the paper's setting (``raw 0.1``); and the controls: the partner's positions ``shuffled`` at random, and its plain
average (``uniform``). A pair shares rows, initial weights, order, augmentation and draws. Finished runs are not trained
again. The protocol stands in recipes/README.md.
"""

import argparse
import functools
from pathlib import Path
from typing import Any

import timm
import torch
from paired import Setting, add_run_options, finished_runs, paired_parser, print_studies, settings_of, train_all
from torch import nn

import alignmix_timm
from alignmix_timm.mixers import AlignMixup
from alignmix_timm.paper.on_device import MEASURES, device_name, fit, images, measure
from alignmix_timm.params import Mode
from alignmix_timm.points import unannounced
from alignmix_timm.training.errors import told_in_a_sentence
from alignmix_timm.typed import at_least

RESULTS = Path(__file__).parent / "results" / "assignments.jsonl"
ARMS: dict[str, dict[str, Any]] = {
    "none": {"assignment": "none"},
    "epsilon 1": {"epsilon": 1.0},
    "epsilon 0.5": {"epsilon": 0.5},
    "epsilon 0.2": {"epsilon": 0.2},
    "epsilon 0.05": {"epsilon": 0.05},
    "raw 0.1": {"epsilon": 0.1, "cost_scale": "raw", "num_iters": 100},
    "shuffled": {"assignment": "shuffled"},
    "uniform": {"assignment": "uniform"},
}
MODES: dict[str, list[Mode]] = {"A": ["feat"], "xAe": ["input", "embed", "feat", "feat_swap"]}
NUMBERS = {"width": 16, "epochs": 20, "images_per_class": 100, "batch_size": 100, "lr": 0.1}
STUDY = ("data", "classes", "head", "modes", *NUMBERS)  # what the runs of one table have in common
COMPARED = {
    "error - none": ("error", "none"),
    "error - shuffled": ("error", "shuffled"),
    "error - uniform": ("error", "uniform"),
    "NLL - none": ("nll", "none"),
}


def main() -> None:
    args = parse_args()
    with told_in_a_sentence():
        if not args.table:
            train_all(settings_of(args, STUDY), functools.partial(train, args.data), args.results, args.processes)
        print_studies(finished_runs(args), STUDY, ARMS, MEASURES, COMPARED)


def build(setting: Setting, classes: int) -> nn.Module:
    """PreActResNet-18: with the paper's fully-connected layer on the flattened map, or with global pooling."""
    width = {"width": setting["width"]}
    if setting["head"] == "pool":
        return timm.create_model("preact_resnet18", num_classes=classes, **width)
    return timm.create_model(
        "alignmix_encoder",
        backbone="preact_resnet18",
        backbone_args=width,
        img_size=32,
        embed_dim=128,
        num_classes=classes,
    )


def train(data: str, setting: Setting) -> dict[str, Any]:
    """Train one network and measure it."""
    train_set, test, classes = images(data, 32, setting["images_per_class"], classes=setting["classes"])
    torch.manual_seed(setting["seed"])
    net = build(setting, classes).to(test.pixels.device)
    with unannounced():
        model = alignmix_timm.AlignMixModel(net, input_size=test.size, **ARMS[setting["arm"]])
    optimizer = torch.optim.SGD(
        model.parameters(), setting["lr"], momentum=0.9, weight_decay=5e-4, nesterov=True, foreach=True
    )
    seconds = fit(model, optimizer, AlignMixup(modes=MODES[setting["modes"]]), train_set, setting)
    return {**measure(model.detach(), test), "seconds": seconds, "device": device_name()}


def parse_args() -> argparse.Namespace:
    parser = paired_parser(__doc__)
    parser.add_argument("--classes", type=at_least(2), help="that many, spread evenly over all; default all")
    parser.add_argument("--head", choices=("flatten", "pool"), default="flatten")
    parser.add_argument("--modes", choices=MODES, default="A", help="A alone, or image, A and embedding in turns")
    add_run_options(parser, ARMS, NUMBERS, RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
