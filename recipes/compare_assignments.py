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
from paired import Setting, differences, interval, read_runs, train_all
from torch import nn

import alignmix_timm
from alignmix_timm.mixers import AlignMixup
from alignmix_timm.paper.on_device import MEASURES, device_name, fit, images, measure
from alignmix_timm.params import Mode
from alignmix_timm.points import unannounced

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


def main() -> None:
    args = parse_args()
    if not args.table:
        settings = [{**common(args), "arm": arm, "seed": seed} for seed in args.seeds for arm in args.arms]
        train_all(settings, functools.partial(train, args.data), args.results, args.processes)
    print_tables(read_runs(args.results))


def common(args: argparse.Namespace) -> Setting:
    """What the arms of a study share."""
    names = ("head", "modes", "width", "epochs", "images_per_class", "batch_size", "lr")
    return {name: getattr(args, name) for name in names}


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
    train_set, test, classes = images(data, 32, setting["images_per_class"])
    torch.manual_seed(setting["seed"])
    net = build(setting, classes).to(test.pixels.device)
    with unannounced():
        model = alignmix_timm.AlignMixModel(net, input_size=test.size, **ARMS[setting["arm"]])
    optimizer = torch.optim.SGD(
        model.parameters(), setting["lr"], momentum=0.9, weight_decay=5e-4, nesterov=True, foreach=True
    )
    seconds = fit(model, optimizer, AlignMixup(modes=MODES[setting["modes"]]), train_set, setting)
    return {**measure(model.detach(), test), "seconds": seconds, "device": device_name()}


def print_tables(runs: list[Setting]) -> None:
    """For each study: means, and differences to mixing in place and to shuffled positions."""
    keys = ("head", "modes", "width", "epochs", "images_per_class")
    for study in dict.fromkeys(tuple(run[key] for key in keys) for run in runs):
        chosen = [run for run in runs if tuple(run[key] for key in keys) == study]
        print(f"\n{', '.join(f'{key} {value}' for key, value in zip(keys, study, strict=True))}")
        print(f"| arm | seeds | {' | '.join(MEASURES.values())} | error - none | error - shuffled | NLL - none |")
        print("|---" * (len(MEASURES) + 5) + "|")
        for arm in ARMS:
            of_arm = [run for run in chosen if run["arm"] == arm]
            if of_arm:
                cells = [str(len(of_arm)), *(interval([run[name] for run in of_arm]) for name in MEASURES)]
                pairs = (("none", "error"), ("shuffled", "error"), ("none", "nll"))
                cells += ["" if arm == base else interval(differences(chosen, arm, base, name)) for base, name in pairs]
                print(f"| {arm} | {' | '.join(cells)} |")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="uoft-cs/cifar100", help="name or folder for datasets.load_dataset")
    parser.add_argument("--head", choices=("flatten", "pool"), default="flatten")
    parser.add_argument("--modes", choices=MODES, default="A", help="A alone, or image, A and embedding in turns")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(12)))
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--images-per-class", type=int, default=100)
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--processes", type=int, default=1, help="each trains one run at a time")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="print the tables of the results, train nothing")
    return parser.parse_args()


if __name__ == "__main__":
    main()
