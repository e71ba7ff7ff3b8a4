"""Fine-tune a pretrained network on a few images of each class, with each way of mixing, in pairs.

    python recipes/compare_finetuning.py --data path/or/name --model tf_efficientnet_lite0
    python recipes/compare_finetuning.py --table

Weights are those of timm, or of a file: ``--weights FILE``. A pair shares rows, initial weights, order and
augmentation. Finished runs are not trained again.
"""

import argparse
import functools
from pathlib import Path
from typing import Any

import timm
import torch
from paired import Setting, differences, interval, read_runs, train_all

import alignmix_timm
from alignmix_timm.mixers import AlignMixup, CutMix, InputMixup, ManifoldMixup, Mixer
from alignmix_timm.paper.on_device import MEASURES, device_name, fit, images, measure
from alignmix_timm.points import unannounced

RESULTS = Path(__file__).parent / "results" / "finetuning.jsonl"
SHARP = {"epsilon": 0.05}
ARMS: dict[str, tuple[Mixer, dict[str, Any]]] = {
    "no mixing": (InputMixup(prob=0), {}),
    "input mixup": (InputMixup(alpha=0.8), {}),
    "CutMix": (CutMix(), {}),
    "manifold mixup": (ManifoldMixup(), {}),
    "AlignMix": (AlignMixup(), SHARP),
    "AlignMix, last stage": (AlignMixup(), {"feature_module": "blocks.6.0", **SHARP}),
    "AlignMix, in place": (AlignMixup(), {"assignment": "none"}),
    "AlignMix, shuffled": (AlignMixup(), {"assignment": "shuffled"}),
}


def main() -> None:
    args = parse_args()
    if not args.table:
        names = ("model", "image_size", "images_per_class", "test_per_class", "epochs", "batch_size", "lr")
        common = {name: getattr(args, name) for name in names}
        settings = [{**common, "arm": arm, "seed": seed} for seed in args.seeds for arm in args.arms]
        run = functools.partial(train, args.data, args.weights)
        train_all(settings, run, args.results, args.processes)
    print_table(read_runs(args.results))


def train(data: str, weights: str | None, setting: Setting) -> dict[str, Any]:
    """Fine-tune one network and measure it."""
    train_set, test, classes = images(
        data, setting["image_size"], setting["images_per_class"], setting["test_per_class"]
    )
    source: dict[str, Any] = {"pretrained_cfg_overlay": {"file": weights}} if weights else {}
    torch.manual_seed(setting["seed"])
    net = timm.create_model(setting["model"], pretrained=True, num_classes=classes, **source).to(test.pixels.device)
    mixer, options = ARMS[setting["arm"]]
    with unannounced():
        model = alignmix_timm.AlignMixModel(net, mixer=mixer, input_size=test.size, **options)
    optimizer = torch.optim.AdamW(model.parameters(), setting["lr"], weight_decay=0.05)
    seconds = fit(model, optimizer, mixer, train_set, setting)
    return {**measure(model.detach(), test), "seconds": seconds, "device": device_name()}


def print_table(runs: list[Setting]) -> None:
    print(f"| arm | seeds | {' | '.join(MEASURES.values())} | error - no mixing | error - AlignMix |")
    print("|---" * (len(MEASURES) + 4) + "|")
    for arm in ARMS:
        of_arm = [run for run in runs if run["arm"] == arm]
        if of_arm:
            cells = [str(len(of_arm)), *(interval([run[name] for run in of_arm]) for name in MEASURES)]
            cells += [
                "" if arm == base else interval(differences(runs, arm, base, "error"))
                for base in ("no mixing", "AlignMix")
            ]
            print(f"| {arm} | {' | '.join(cells)} |")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="uoft-cs/cifar100", help="name or folder for datasets.load_dataset")
    parser.add_argument("--model", default="tf_efficientnet_lite0")
    parser.add_argument("--weights", metavar="FILE", help="pretrained weights; default those that timm downloads")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(12)))
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--images-per-class", type=int, default=5)
    parser.add_argument("--test-per-class", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=50)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--processes", type=int, default=1, help="each trains one run at a time")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="print the table of the results, train nothing")
    return parser.parse_args()


if __name__ == "__main__":
    main()
