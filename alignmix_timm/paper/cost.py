"""Parameters, and the time of a training step as a multiple of one without mixing (Table 1b)."""

import functools
import platform
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from ..mixers import AlignMixup, Mixer
from ..points import unannounced
from ..training.build import build_model, wrap_model
from ..training.config import TrainConfig
from .locks import holding
from .methods import ALIGNMENT, METHODS, normalised
from .numbers import paper_tables
from .results import Line, append_line, check_writable, find, read_lines
from .runner import WAIT, finished, hardware
from .scales import cell
from .show import markdown
from .step_time import CLASSES, Wrapped, ratio, step_seconds

MODEL, SIZE = "resnet50", 224  # of the paper's table
ON_GPU, ON_CPU = {"batch_size": 100, "blocks": 5, "steps": 5}, {"batch_size": 8, "blocks": 5, "steps": 1}


def measure_cost(configs: Path, folder: Path) -> None:
    """Measure ResNet-50 at 224 pixels on this machine, and add the line to the results if it has none of this hardware.

    Another process that measures here is waited for: both would measure less than the machine can.

    Args:
        configs: See :func:`.scales.cell`.
        folder: Of the results.

    Raises:
        ValueError: nothing can be written to the folder.
    """
    sizes = ON_CPU if _device().type == "cpu" else ON_GPU
    methods = [key for key in paper_tables()["table1b"].rows if not METHODS[key].missing]
    config = {"measure": "cost", "model": MODEL, "size": SIZE, **sizes, "hardware": hardware(), "methods": methods}
    run = {"scale": "cost", "config": config, "seed": 0}
    lock, told = folder / "locks" / f"cost-{platform.node()}.lock", False
    while find(read_lines(folder), run) is None:
        check_writable(folder, ["cost.jsonl"])
        with holding(lock) as mine:
            if mine and find(read_lines(folder), run) is None:
                append_line(folder / "cost.jsonl", finished(run, functools.partial(_measure, configs)))
        if not mine:
            if not told:
                print(f"waiting for another process, which measures steps here: it holds {lock}.", flush=True)
            told = True
            time.sleep(WAIT)


def on_gpu(line: Line) -> bool:
    """Whether a line of :func:`measure_cost` is of a GPU."""
    return line["config"]["batch_size"] == ON_GPU["batch_size"]


def cost_text(configs: Path, lines: Sequence[Line]) -> list[str]:
    """Table 1b's parameters and times as Markdown: the paper's, and the last ones of each hardware."""
    costs = [line for line in lines if line["scale"] == "cost"]
    measured = {(line["config"]["hardware"], line["config"]["batch_size"]): line for line in costs}.values()
    header = ["method", "parameters, M: paper", "ours", "RTX 2080 Ti: paper, ms", "ratio to no mixing"]
    for line in measured:
        config = line["config"]
        header += [f"{config['hardware']}, {config['batch_size']} images: ours, ms", "ratio to no mixing"]
    printed = paper_tables()["table1b"].rows
    base, rows = printed["baseline"][1] or 0, []
    for key, (parameters, milliseconds, _) in printed.items():
        method, ours = METHODS[key], ""
        if not method.missing:
            ours = f"{parameters_of(key if _decodes(method.options) else 'baseline', configs) / 1e6:.1f}"
        cells = [f"{parameters:g}", ours, f"{milliseconds:g}", f"{(milliseconds or 0) / base:.2f}"]
        for line in measured:
            one = line["result"].get(key)
            absent = ["does not run" if method.missing else "not measured", ""]
            cells += absent if one is None else [f"{one['milliseconds']:.0f}", f"{one['ratio']:.2f}"]
        rows.append([method.label, *cells])
    return markdown(header, rows)


@functools.cache
def parameters_of(method: str, configs: Path) -> int:
    """The number of parameters that a method of Table 1b trains at the paper's scale, with ImageNet's 1,000 classes."""
    model, _ = _build(_options(method, configs), 1000)
    return sum(parameter.numel() for parameter in model.parameters())


def _measure(configs: Path, run: Line) -> dict[str, Any]:
    """Milliseconds of a step, and ratio to no mixing, by method; those that do not run are left out."""
    config = run["config"]
    makers, by_mode = {}, dict[str, dict[str, tuple[Wrapped, Mixer]]]()
    for key in config["methods"]:
        options = normalised(METHODS[key].options, list(IMAGENET_DEFAULT_MEAN), list(IMAGENET_DEFAULT_STD))
        if _decodes(options):
            by_mode[key] = _each_mode(key, configs)
        else:
            makers[key] = functools.partial(_mixer, options)
    sizes, turns = (config["size"], config["batch_size"]), (config["blocks"], config["steps"])
    others = {name: one for modes in by_mode.values() for name, one in modes.items()}
    times = step_seconds(config["model"], *sizes, makers, *turns, _device(), others, **ALIGNMENT)
    for key, modes in by_mode.items():
        blocks = zip(*(times.pop(name) for name in modes), strict=True)
        times[key] = [statistics.mean(block) for block in blocks]
    base = times["baseline"]
    return {
        key: {"milliseconds": 1000 * statistics.median(seconds), "ratio": ratio(seconds, base)}
        for key, seconds in times.items()
    }


def _each_mode(method: str, configs: Path) -> dict[str, tuple[Wrapped, Mixer]]:
    """A method once for each of its modes, which take unequal times: one in five batches is decoded."""
    model, mixer = _build(_options(method, configs), CLASSES)
    assert isinstance(mixer, AlignMixup)
    return {f"{method}, {mode}": (model, replace(mixer, modes=(mode,))) for mode in mixer.modes}


def _decodes(options: dict[str, Any]) -> bool:
    """Whether a method trains a decoder as well: a network of its own."""
    return options.get("method", "alignmix") != "alignmix"


def _options(method: str, configs: Path) -> TrainConfig:
    """Of the training of a method of the table at the paper's scale."""
    options = cell("paper", paper_tables()["table1b"].columns[-1], METHODS[method], configs)
    assert options is not None
    return TrainConfig(**options)


def _build(config: TrainConfig, classes: int) -> tuple[Wrapped, Mixer]:
    images = {"input_size": (3, SIZE, SIZE), "mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD}
    mixer = config.drawn_mixers()[0]
    with unannounced():
        return wrap_model(build_model(config, classes), config, images, mixer), mixer


def _mixer(options: dict[str, Any]) -> Mixer:
    return TrainConfig(**options).drawn_mixers()[0]


def _device() -> torch.device:
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
