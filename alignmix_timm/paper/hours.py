"""How long the paper's scale would take, estimated from measured times of a step."""

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from ..training.build import build_model
from ..training.config import TrainConfig
from ..training.data.transforms import data_config
from .cost import on_gpu
from .numbers import paper_tables
from .results import Line, identity
from .scales import runs
from .show import markdown

ROWS = {"none": "baseline", "mixup": "input"}  # of Table 1b, where it calls a mixer otherwise
AUTOENCODER = 688 / 418  # the paper's, where ours was not measured
LEAST = 11.5  # milliseconds of any step, however small the network: recipes/results/assignments.jsonl, 2,000 in 23 s
IMAGES = {
    "cifar10": 50_000,
    "cifar100": 50_000,
    "tiny_imagenet": 100_000,
    "imagenet300": 1_281_167,
    "imagenet100": 1_281_167,
    "cub": 5_994,
}
GPUS = (1, 4, 8)
NETWORK = ("model", "model_args", "embedding", "embed_dim", "grid", "img_size")  # the options that make it
CLASSES = 1000  # of the last layer, a small part of the work


def hours(run: Line, measured: Line) -> float:
    """Estimated hours of a run of the paper's scale on one GPU: its steps, without data loading and evaluation.

    A step costs as much as one of ResNet-50 on the same number of multiply-adds, but 11.5 ms at least.

    Args:
        run: Its config.
        measured: The line of Table 1b of this GPU.
    """
    config, of, times = run["config"], measured["config"], measured["result"]
    mixer = config["mixers"][0]
    if config.get("method", "alignmix") == "alignmix":
        ratio = times.get(ROWS.get(mixer, mixer), {"ratio": 1.0})["ratio"]
    else:
        ratio = times.get("alignmix_ae", {"ratio": AUTOENCODER})["ratio"]
    work = flops(config) * config["batch_size"]
    known = flops({"model": of["model"], "img_size": of["size"]}) * of["batch_size"]
    step = max(times["baseline"]["milliseconds"] * work / known, LEAST) * ratio
    return config["epochs"] * (IMAGES[config["data"]] / config["batch_size"]) * step / 3.6e6


def flops(config: dict[str, Any]) -> int:
    """Of one image in the forward pass of the network of a run; nothing is computed."""
    return _flops(json.dumps({name: config[name] for name in NETWORK if name in config}))


@functools.cache
def _flops(options: str) -> int:
    config = TrainConfig(**json.loads(options))
    with torch.device("meta"):
        net = build_model(config, CLASSES).eval()
        images = torch.empty(1, 3, *data_config(net, config)["input_size"][1:])
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(images)
    return counter.get_total_flops()


def hours_text(configs: Path, lines: Sequence[Line]) -> list[str]:
    """The hours of each table, and of all of them, which share runs, on several numbers of GPUs, as Markdown.

    Args:
        configs: See :func:`.scales.cell`.
        lines: Of all scales; the fastest GPU that Table 1b was measured on is taken.
    """
    measured = min(
        (line for line in lines if line["scale"] == "cost" and on_gpu(line)),
        key=lambda line: line["result"]["baseline"]["milliseconds"],
        default=None,
    )
    if measured is None:
        return ["No step was measured on a GPU yet: call `python -m alignmix_timm.paper table1b` on one."]
    rows, every = [], dict[str, Line]()
    for name, table in paper_tables().items():
        own = {identity(run): run for run in runs("paper", table, configs)}
        every |= own
        rows.append(_row(name, list(own.values()), measured))
    rows.append(_row("all, shared runs once", list(every.values()), measured))
    of = measured["config"]["hardware"]
    text = markdown(["table", "runs", *(f"{count} {of}{'s' * (count > 1)}, hours" for count in GPUS)], rows)
    borrowed = "Cutout's steps count as those without mixing"
    if "alignmix_ae" not in measured["result"]:
        borrowed += f", those with an autoencoder as {AUTOENCODER:.2f} times as long, the paper's ratio"
    return [*text, f"{borrowed}: they were not measured there."]


def _row(name: str, trained: Sequence[Line], measured: Line) -> list[str]:
    each = [hours(run, measured) for run in trained]
    return [name, str(len(each)), *(f"{max(sum(each) / count, max(each, default=0)):,.0f}" for count in GPUS)]
