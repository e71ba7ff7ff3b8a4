"""Training on a small image set that lies on the device: rows, order and augmentation follow from the seed alone."""

import functools
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..evaluation.calibration import expected_calibration_error
from ..mixers import Mixer
from ..model import AlignMixModel
from ..params import Place
from ..seeds import Stream, generator
from .graphs import Losses
from .images import Images, of_classes

MEASURES = {"error": "error %", "nll": "NLL", "ece": "ECE %"}


@functools.cache
def images(
    data: str, size: int, per_class: int, test_per_class: int | None = None, classes: int | None = None
) -> tuple[Images, Images, int]:
    """Images of some or all classes, on the device: see :func:`.images.of_classes`."""
    *parts, count = of_classes(data, size, per_class, test_per_class, classes)
    training, test = (Images(part.pixels.to(_device()), part.labels.to(_device())) for part in parts)
    return training, test, count


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name() -> str:
    """Of the hardware, for the line of a run."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


def fit(
    model: AlignMixModel, optimizer: torch.optim.Optimizer, mixer: Mixer, data: Images, setting: dict[str, Any]
) -> float:
    """Train in place with one cycle of the learning rate; the seconds that it took.

    Args:
        setting: seed, epochs, batch_size and lr.

    Raises:
        ValueError: there is not one whole batch.
    """
    start = time.perf_counter()
    if setting["batch_size"] > len(data):
        raise ValueError(f"batch_size must be at most the {len(data)} training images, got {setting['batch_size']}.")
    steps = setting["epochs"] * (len(data) // setting["batch_size"])
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, setting["lr"], total_steps=steps)
    model.train()
    losses = Losses(model)
    for step, (pixels, labels) in enumerate(batches(data, setting)):
        params = mixer.draw(len(labels), Place(setting["seed"], step))
        optimizer.zero_grad()
        losses(pixels, labels, params).backward()
        optimizer.step()
        schedule.step()
    if data.pixels.is_cuda:
        torch.cuda.synchronize()
    return round(time.perf_counter() - start, 1)


def batches(data: Images, setting: dict[str, Any]) -> Iterator[tuple[Tensor, Tensor]]:
    """Shuffled batches of images that are shifted by up to an eighth of their size and flipped at random."""
    count, size = setting["batch_size"], data.size[-1]
    pad, device = size // 8, data.pixels.device
    padded = F.pad(data.pixels, (pad,) * 4)
    offsets = torch.arange(size, device=device)
    for epoch in range(setting["epochs"]):
        order = generator(setting["seed"], Stream.ORDER, epoch).permutation(len(data))
        rng = generator(setting["seed"], Stream.AUGMENT, epoch)
        drawn = order, rng.integers(0, 2 * pad + 1, (2, len(data))), rng.integers(0, 2, len(data))
        rows, shifts, flips = (torch.from_numpy(values).to(device) for values in drawn)
        for index in rows.split(count)[: len(data) // count]:
            tops, lefts = shifts[0, index, None] + offsets, shifts[1, index, None] + offsets
            lefts = torch.where(flips[index, None].bool(), lefts.flip(1), lefts)
            crops = padded[index[:, None, None], :, tops[:, :, None], lefts[:, None, :]].permute(0, 3, 1, 2)
            yield crops.float() / 127.5 - 1, data.labels[index]


@torch.no_grad()
def measure(net: nn.Module, data: Images) -> dict[str, float]:
    """Error and calibration error in percent, and the negative log-likelihood."""
    net.eval()
    logits = torch.cat([net(pixels.float() / 127.5 - 1) for pixels in data.pixels.split(500)]).float()
    return {
        "error": 100 * (logits.argmax(1) != data.labels).double().mean().item(),
        "nll": F.cross_entropy(logits, data.labels).item(),
        "ece": 100 * expected_calibration_error(logits, data.labels),
    }
