"""How long the paper's scale would take, estimated from measured times of a step."""

import functools
from collections.abc import Sequence
from pathlib import Path

import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

from .numbers import paper_tables
from .results import Line, identity
from .scales import runs
from .show import markdown

# Milliseconds of a step of ResNet-50, 128 images of 224 pixels, bf16, measured on one NVIDIA H200.
MEASURED = {"none": 30.8, "cutmix": 31.8, "alignmix": 35.7, "manifold": 34.3}
# The other mixers as multiples of no mixing: recipes/benchmark_mixers.py, ResNet-50 on two CPU threads. An autoencoder:
# the paper's Table 1b.
RATIOS = {"mixup": 0.99, "cutout": 1.01, "saliencymix": 1.01, "puzzlemix": 1.67, "comixup": 1.68}
AUTOENCODER = 688 / 418
LEAST = (
    30.0  # milliseconds of any step, however small the network: recipes/results/assignments.jsonl, 2,000 in a minute
)
IMAGES = {
    "cifar10": 50_000,
    "cifar100": 50_000,
    "tiny_imagenet": 100_000,
    "imagenet300": 1_281_167,
    "imagenet100": 1_281_167,
    "cub": 5_994,
}
SIDES = {"tiny_imagenet": 64, "imagenet300": 224, "imagenet100": 224, "cub": 224}
GPUS = (1, 4, 8)


def hours(run: Line) -> float:
    """Estimated hours of a run of the paper's scale on one H200: its steps, without data loading and evaluation.

    A step costs as much as one of ResNet-50 on the same number of multiply-adds, but 30 ms at least.
    """
    config = run["config"]
    mixer = config["mixers"][0]
    ratio = MEASURED.get(mixer, MEASURED["none"] * RATIOS.get(mixer, 1.0)) / MEASURED["none"]
    if config.get("method", "alignmix") != "alignmix":
        ratio = AUTOENCODER
    work = flops(config["model"], SIDES.get(config["data"], 32)) * config["batch_size"]
    step = max(MEASURED["none"] * work / (flops("resnet50", 224) * 128), LEAST) * ratio
    return config["epochs"] * (IMAGES[config["data"]] / config["batch_size"]) * step / 3.6e6


@functools.cache
def flops(model: str, side: int) -> int:
    """Of one image in the forward pass; nothing is computed."""
    with torch.device("meta"):
        net = timm.create_model(model).eval()
        images = torch.empty(1, 3, side, side)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(images)
    return counter.get_total_flops()


def hours_text(configs: Path) -> list[str]:
    """The hours of each table, and of all of them, which share runs, on several numbers of GPUs, as Markdown."""
    rows, every = [], dict[str, Line]()
    for name, table in paper_tables().items():
        own = {identity(run): run for run in runs("paper", table, configs)}
        every |= own
        rows.append(_row(name, list(own.values())))
    rows.append(_row("all, shared runs once", list(every.values())))
    return markdown(["table", "runs", *(f"{count} GPU{'s' * (count > 1)}, hours" for count in GPUS)], rows)


def _row(name: str, trained: Sequence[Line]) -> list[str]:
    each = [hours(run) for run in trained]
    return [name, str(len(each)), *(f"{max(sum(each) / count, max(each, default=0)):,.0f}" for count in GPUS)]
