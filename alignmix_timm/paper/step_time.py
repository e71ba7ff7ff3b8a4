"""Time of a training step with every way of mixing, on the hardware at hand.

A step draws, mixes, goes forward and backward, and updates the weights, with random images that lie on the device; no
image is loaded. All methods train in turns, so that what else the machine does falls on all of them alike.
"""

import functools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import timm
import torch
from tqdm import tqdm

from ..mixers import Mixer, OneOf
from ..model import AlignMixModel
from ..networks.autoencoder import Autoencoder
from ..params import Place
from ..points import unannounced

CLASSES = 100
Wrapped = AlignMixModel | Autoencoder


def step_seconds(
    name: str,
    size: int,
    batch_size: int,
    makers: Mapping[str, Callable[[], Mixer]],
    blocks: int,
    steps: int,
    device: torch.device,
    others: Mapping[str, tuple[Wrapped, Mixer]] | None = None,
    **alignment: Any,
) -> dict[str, list[float]]:
    """Seconds of a step in each block, by method. One that does not run is named with the reason, and left out.

    Args:
        name: Of the timm model.
        size: Side of the images in pixels.
        batch_size: Images of a step.
        makers: Make the mixers of methods that train the same network, by name.
        blocks: Turns of all methods.
        steps: In a turn.
        device: Of network and images.
        others: Model and mixer of methods that train another model, by name.
        **alignment: See :class:`alignmix_timm.Alignment`.
    """
    torch.manual_seed(0)
    images = torch.randn(batch_size, 3, size, size, device=device)
    labels = torch.randint(CLASSES, (batch_size,), device=device)
    mixers = {mixer: one for mixer, make in makers.items() if (one := _attempt(mixer, make))}
    with unannounced():
        net = timm.create_model(name, num_classes=CLASSES)
        every = OneOf(tuple(mixers.values()))
        shared = AlignMixModel(net, mixer=every, input_size=(3, size, size), **alignment)
    methods: dict[str, tuple[Wrapped, Mixer]] = {mixer: (shared, one) for mixer, one in mixers.items()}
    methods |= others or {}
    optimizers = {}
    for model in {model for model, _ in methods.values()}:
        model.to(device).train()
        optimizers[model] = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)

    def step(method: str, number: int) -> bool:
        model, mixer = methods[method]
        if model is shared:
            shared.mixer = mixer
        loss = model(images, labels, mixer.draw(batch_size, Place(0, number))).loss
        assert loss is not None
        loss.backward()
        optimizers[model].step()
        optimizers[model].zero_grad()
        return True

    times: dict[str, list[float]] = {
        method: [] for method in methods if _attempt(method, functools.partial(step, method, 0))
    }
    for block in tqdm(range(blocks), desc=name, unit="block"):
        for method in times:
            _wait(device)
            start = time.perf_counter()
            for number in range(steps):
                step(method, 1 + block * steps + number)
            _wait(device)
            times[method].append((time.perf_counter() - start) / steps)
    return times


def ratio(times: Sequence[float], base: Sequence[float]) -> float:
    """Median of the ratios within each block."""
    return statistics.median(one / none for one, none in zip(times, base, strict=True))


def _attempt(method: str, action: Callable[[], Any]) -> Any:
    """What the action returns; None if it fails, with the reason on the screen."""
    try:
        return action()
    except (ValueError, RuntimeError, OSError) as error:
        print(f"{method} does not run: {error}")
        return None


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize()
