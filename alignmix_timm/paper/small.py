"""A run of the small scale: few images in memory, trained by the loop of ``on_device`` on one thread, then measured."""

import functools
from dataclasses import fields
from typing import Any

import torch

from ..evaluation.pixel_model import PixelModel
from ..points import unannounced
from ..seeds import Stream, seed_all
from ..training.build import build_model, wrap_model
from ..training.config import TrainConfig
from ..training.mixing import build_mixer
from .images import Images, of_classes
from .measures import measure_all
from .on_device import fit
from .outliers import outlier_sets
from .results import Line
from .runner import describe

ATTACKED = 500  # test images that FGSM and PGD attack
SIDE = 32


def train(run: Line, data: str, outliers: dict[str, str] | None) -> dict[str, Any]:
    """Train and measure one network; the same numbers on every machine that rounds alike.

    Args:
        run: Its config and seed.
        data: Name or folder of the dataset.
        outliers: Names or folders of out-of-distribution images, by the name of the set; None detects none, nor noise.

    Returns:
        All that :func:`.measures.measure_all` takes.

    Raises:
        ValueError: data that cannot be loaded.
        FloatingPointError: training diverges.
    """
    torch.set_num_threads(1)
    settings, seed = run["config"], run["seed"]
    training, test = rows(data, settings["classes"], settings["images_per_class"])
    names = {option.name for option in fields(TrainConfig)}
    config = TrainConfig(**{name: value for name, value in settings.items() if name in names}, seed=seed)
    config.check()
    seed_all(seed, Stream.INIT)
    net = build_model(config, settings["classes"]).to(memory_format=torch.channels_last)
    mixer, shape = build_mixer(config), {"input_size": test.size, "mean": config.mean, "std": config.std}
    with unannounced():
        model: Any = wrap_model(net, config, shape, mixer)
    optimizer = torch.optim.SGD(
        model.parameters(), settings["lr"], momentum=0.9, weight_decay=config.weight_decay, nesterov=True, foreach=True
    )
    fit(model, optimizer, mixer, training, {**settings, "seed": seed})
    if not all(values.isfinite().all() for values in net.state_dict().values()):
        raise FloatingPointError(f"training diverged, its weights are not finite: {describe(run)}.")
    model.hooks.detach()
    assert config.mean is not None
    assert config.std is not None
    return measure_all(PixelModel(net, config.mean, config.std), test, outlier_sets(outliers, SIDE), ATTACKED)


@functools.cache
def rows(data: str, classes: int, per_class: int) -> tuple[Images, Images]:
    """The first training images and all test images of the classes kept: see :func:`.images.of_classes`."""
    training, test, _ = of_classes(data, SIDE, per_class, classes=classes)
    return training, test
