"""Fine-tune a pretrained network on a few images of each class, with each way of mixing, in pairs.

    python recipes/compare_finetuning.py --data path/or/name
    python recipes/compare_finetuning.py --table

The network is EfficientNet-Lite0, with the weights of timm, or of a file: ``--weights FILE``. A pair shares rows,
initial weights, order and augmentation. Finished runs are not trained again.
"""

import argparse
import functools
from pathlib import Path
from typing import Any

import timm
import torch
from paired import Setting, add_run_options, finished_runs, paired_parser, print_studies, settings_of, train_all

import alignmix_timm
from alignmix_timm.mixers import AlignMixup, CutMix, InputMixup, ManifoldMixup, Mixer
from alignmix_timm.paper.on_device import MEASURES, device_name, fit, images, measure
from alignmix_timm.points import unannounced
from alignmix_timm.training.errors import told_in_a_sentence

RESULTS = Path(__file__).parent / "results" / "finetuning.jsonl"
MODEL = "tf_efficientnet_lite0"  # made for images of mean and standard deviation 0.5, as on_device feeds them
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
NUMBERS = {
    "image_size": 128,
    "images_per_class": 5,
    "test_per_class": 20,
    "epochs": 20,
    "batch_size": 50,
    "lr": 5e-4,
}
STUDY = ("data", "model", "weights", *NUMBERS)  # what the runs of one table have in common
COMPARED = {f"error - {base}": ("error", base) for base in ("no mixing", "AlignMix")}


def main() -> None:
    args = parse_args()
    with told_in_a_sentence():
        if not args.table:
            run = functools.partial(train, args.data, args.weights)
            train_all(settings_of(args, STUDY), run, args.results, args.processes)
        print_studies(finished_runs(args), STUDY, ARMS, MEASURES, COMPARED)


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


def parse_args() -> argparse.Namespace:
    parser = paired_parser(__doc__)
    parser.set_defaults(model=MODEL)
    parser.add_argument("--weights", metavar="FILE", help="pretrained weights; default those that timm downloads")
    add_run_options(parser, ARMS, NUMBERS, RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
