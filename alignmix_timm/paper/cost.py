"""Time of a training step with every way of mixing, as a multiple of one without (Table 1b), on the hardware at hand.

A step draws, mixes, goes forward and backward, and updates the weights, with random images that lie on the device; no
image is loaded. All mixers train one network in turns, so that what else the machine does falls on all of them alike.
"""

import functools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from tqdm import tqdm

from ..mixers import Mixer, OneOf
from ..model import AlignMixModel
from ..params import Place
from ..points import unannounced
from ..training.config import TrainConfig
from .methods import ALIGNMENT, METHODS, normalised
from .numbers import paper_tables
from .results import Line, append_line, find, read_lines
from .runner import finished, hardware
from .show import markdown

CLASSES = 100
MODEL, SIZE = "resnet50", 224  # of the paper's table


def step_seconds(
    name: str,
    size: int,
    batch_size: int,
    makers: Mapping[str, Callable[[], Mixer]],
    blocks: int,
    steps: int,
    device: torch.device,
    **alignment: Any,
) -> dict[str, list[float]]:
    """Seconds of a step in each block, by mixer. A mixer that does not run is named with the reason, and left out.

    Args:
        name: Of the timm model.
        size: Side of the images in pixels.
        batch_size: Images of a step.
        makers: Make the mixers, by name.
        blocks: Turns of all mixers.
        steps: In a turn.
        device: Of network and images.
        **alignment: See :class:`alignmix_timm.Alignment`.
    """
    torch.manual_seed(0)
    images = torch.randn(batch_size, 3, size, size, device=device)
    labels = torch.randint(CLASSES, (batch_size,), device=device)
    parts = {mixer: one for mixer, make in makers.items() if (one := _attempt(mixer, make))}
    with unannounced():
        net = timm.create_model(name, num_classes=CLASSES)
        every = OneOf(tuple(parts.values()))
        model = AlignMixModel(net, mixer=every, input_size=(3, size, size), **alignment).to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)

    def step(mixer: Mixer, number: int) -> bool:
        model.mixer = mixer
        model(images, labels, mixer.draw(batch_size, Place(0, number))).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return True

    runs = {mixer: one for mixer, one in parts.items() if _attempt(mixer, functools.partial(step, one, 0))}
    times: dict[str, list[float]] = {mixer: [] for mixer in runs}
    for block in tqdm(range(blocks), desc=name, unit="block"):
        for mixer, one in runs.items():
            _wait(device)
            start = time.perf_counter()
            for number in range(steps):
                step(one, 1 + block * steps + number)
            _wait(device)
            times[mixer].append((time.perf_counter() - start) / steps)
    return times


def ratio(times: Sequence[float], base: Sequence[float]) -> float:
    """Median of the ratios within each block."""
    return statistics.median(one / none for one, none in zip(times, base, strict=True))


def _attempt(mixer: str, action: Callable[[], Any]) -> Any:
    """What the action returns; None if it fails, with the reason on the screen."""
    try:
        return action()
    except (ValueError, RuntimeError, OSError) as error:
        print(f"{mixer} does not run: {error}")
        return None


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize()


def measure_cost(folder: Path) -> None:
    """Measure ResNet-50 at 224 pixels on this machine, and add the line to the results if it has none of this hardware.

    Args:
        folder: Of the results.
    """
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    small = device.type == "cpu"
    config = {"measure": "cost", "model": MODEL, "size": SIZE, "batch_size": 8 if small else 100, "blocks": 5}
    run = {"scale": "cost", "config": config | {"steps": 1 if small else 5, "hardware": hardware()}, "seed": 0}
    if find(read_lines(folder), run) is None:
        append_line(folder / "cost.jsonl", finished(run, _measure))


def cost_text(lines: Sequence[Line]) -> list[str]:
    """Table 1b's times as Markdown: the paper's, and those of each hardware that was measured."""
    printed = {row: numbers[1] for row, numbers in paper_tables()["table1b"].rows.items()}
    measured = [line for line in lines if line["scale"] == "cost"]
    header = ["method", "RTX 2080 Ti: paper, ms", "ratio to no mixing"]
    for line in measured:
        config = line["config"]
        header += [f"{config['hardware']}, {config['batch_size']} images: ours, ms", "ratio to no mixing"]
    rows = []
    for key, milliseconds in printed.items():
        cells = ["" if milliseconds is None else f"{milliseconds:g}", _ratio(milliseconds, printed["baseline"])]
        for line in measured:
            one = line["result"].get(key)
            absent = ["does not run" if METHODS[key].missing else "not measured", ""]
            cells += absent if one is None else [f"{one['milliseconds']:.0f}", f"{one['ratio']:.2f}"]
        rows.append([METHODS[key].label, *cells])
    return markdown(header, rows)


def _measure(run: Line) -> dict[str, Any]:
    """Milliseconds of a step, and ratio to no mixing, by method; those that do not run are left out."""
    config = run["config"]
    makers = {}
    for key in paper_tables()["table1b"].rows:
        options = normalised(METHODS[key].options, list(IMAGENET_DEFAULT_MEAN), list(IMAGENET_DEFAULT_STD))
        if options.get("method", "alignmix") == "alignmix":  # an autoencoder is another network
            makers[key] = functools.partial(_mixer, options)
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    sizes = config["size"], config["batch_size"]
    times = step_seconds(config["model"], *sizes, makers, config["blocks"], config["steps"], device, **ALIGNMENT)
    base = times["baseline"]
    return {
        key: {"milliseconds": 1000 * statistics.median(seconds), "ratio": ratio(seconds, base)}
        for key, seconds in times.items()
    }


def _mixer(options: dict[str, Any]) -> Mixer:
    return TrainConfig(**options).drawn_mixers()[0]


def _ratio(milliseconds: float | None, base: float | None) -> str:
    return "" if milliseconds is None or base is None else f"{milliseconds / base:.2f}"
