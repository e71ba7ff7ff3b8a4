"""Compare places to mix, aligned and not: error, calibration and time, mean and spread over seeds.

    python recipes/compare_points.py --model test_resnet --image-size 32 --places layer1.0 layer2.0 layer3.0
    python recipes/compare_points.py --model test_vit --image-size 64 --places blocks.2 blocks.3 blocks.4

The default place is marked with a star. Runs are saved as they end, and not repeated: --save.
"""

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from accelerate.utils import set_seed
from quickstart import EMBEDDED, measure, predict
from timm.optim import create_optimizer_v2
from torch.utils.data import DataLoader

from alignmix_timm import AlignMixCollator, AlignMixModel, choose_point
from alignmix_timm.alignment import Assignment
from alignmix_timm.paper.images import Images, load

ASSIGNMENTS: tuple[Assignment, ...] = ("transport", "none")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="test_resnet")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--places", nargs="+", required=True, metavar="MODULE")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--train-size", type=int, default=2500)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--optimizer", default="sgd", help="a name of timm.optim")
    parser.add_argument("--save", type=Path, default=Path("compare_points.jsonl"))
    args = parser.parse_args()
    train, test, names = load(EMBEDDED, args.image_size)
    runs = [json.loads(line) for line in args.save.read_text().splitlines()] if args.save.exists() else []
    common = {name: value for name, value in vars(args).items() if name not in ("places", "seeds", "save")}
    table: dict[tuple[str, Assignment], list[dict[str, float]]] = {}
    for seed in args.seeds:
        for place, assignment in [("none", ASSIGNMENTS[1]), *itertools.product(args.places, ASSIGNMENTS)]:
            setting = {**common, "place": place, "assignment": assignment, "seed": seed}
            found = next((run for run in runs if setting.items() <= run.items()), None)
            if found is None:
                found = {**setting, **run(setting, train.subset(args.train_size, seed, False), test, names, args)}
                with args.save.open("a") as file:
                    file.write(json.dumps(found) + "\n")
            table.setdefault((place, assignment), []).append(found)
    default = choose_point(build(args, names), test.size).feature_module
    print(f"{args.model}, {args.train_size} images, {args.epochs} epochs, seeds {args.seeds}")
    print(f"{'place':24s}{'error %':>14s}{'ECE %':>14s}{'loss':>14s}{'s/epoch':>14s}")
    for (place, assignment), chosen in table.items():
        label = place if place == "none" else f"{place}{'*' * (place == default)} {assignment}"
        cells = [spread([run[name] for run in chosen]) for name in ("error %", "ECE %", "loss", "s/epoch")]
        print(f"{label:24s}" + "".join(f"{cell:>14s}" for cell in cells))


def build(args: argparse.Namespace, names: list[str]) -> Any:
    try:
        return timm.create_model(args.model, num_classes=len(names), img_size=args.image_size)
    except TypeError:  # a network that takes images of any size
        return timm.create_model(args.model, num_classes=len(names))


def run(
    setting: dict[str, Any], train: Images, test: Images, names: list[str], args: argparse.Namespace
) -> dict[str, float]:
    """Train once at a place and measure."""
    set_seed(setting["seed"])
    net = build(args, names)
    mixing = setting["place"] != "none"
    place = {"feature_module": setting["place"]} if mixing else {}
    model = AlignMixModel(net, input_size=test.size, assignment=setting["assignment"], **place)
    collator = AlignMixCollator(seed=setting["seed"], prob=float(mixing))
    loader = DataLoader(train, 64, shuffle=True, drop_last=True, collate_fn=collator)
    optimizer = create_optimizer_v2(model, args.optimizer, lr=args.lr, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, total_steps=args.epochs * len(loader))
    model.train()
    start = time.perf_counter()
    for _ in range(args.epochs):
        for batch in loader:
            model(**batch).loss.backward()
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    seconds = (time.perf_counter() - start) / args.epochs
    found = measure(*predict(model.detach(), test, torch.device("cpu")))
    return {"error %": 100 - found["top-1 %"], "ECE %": found["ECE %"], "loss": found["loss"], "s/epoch": seconds}


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation."""
    return f"{statistics.mean(values):.2f}" + (f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else "")


if __name__ == "__main__":
    main()
