"""A run of the paper's scale: the training engine with the paper's settings, then all measures of its last weights."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate.state import AcceleratorState

from ..evaluation.box_files import read_box_files
from ..evaluation.pixel_model import PixelModel
from ..training.config import TrainConfig
from ..training.journal import read_journal
from ..training.main import run as train_or_go_on
from ..training.run import Run
from .images import decoded
from .localize import localize
from .measures import measure_all
from .outliers import outlier_sets
from .results import Line, identity

ATTACKED = 10_000
LOCALIZED = ("cub",)
SQUARE = ("cifar10", "cifar100", "tiny_imagenet")  # data whose images are read as they are, and fit into memory


def train(
    run: Line, data: str, outliers: dict[str, str] | None, folder: Path, boxes: Path | None = None
) -> dict[str, Any]:
    """Train one network, or go on with it where it was killed, and measure it.

    The folder of the run stays: its weights took days, and other measures may be wanted of them.

    Args:
        run: Its config and seed.
        data: Name or folder of the dataset.
        outliers: Names or folders of out-of-distribution images, by the name of the set; None detects none, nor noise.
        folder: Of all runs.
        boxes: Folder of the boxes of CUB-200-2011, see :func:`.localize.localize`.

    Returns:
        The error of the last evaluation and of the best; of images of 64 pixels at most, all that
        :func:`.measures.measure_all` takes; of CUB-200-2011, localization.

    Raises:
        ValueError, FloatingPointError, OSError, SystemExit: as the training.
    """
    check_boxes(run, boxes)
    config = training_config(run, data, folder)
    output = Path(config.output)
    if not (output / "model").exists():
        train_alone(config)
    evaluations = [record for record in read_journal(output / "metrics.jsonl") if record["kind"] == "eval"]
    errors = [100 - record["top1"] for record in evaluations]
    found: dict[str, Any] = {"error": errors[-1], "accuracy": evaluations[-1]["top1"], "best_error": min(errors)}
    if run["config"]["data"] not in (*SQUARE, *LOCALIZED):
        return found
    trained = Run(replace(config, eval_only=str(output / "last"), resume="no"))
    if boxes is not None and run["config"]["data"] in LOCALIZED:
        return found | localize(trained, data, boxes, output)
    side = trained.data["input_size"][-1]
    test = decoded(trained.splits.test, trained.splits.image, trained.splits.label, side)
    device = trained.accelerator.device
    test.pixels, test.labels = test.pixels.to(device), test.labels.to(device)
    trained.hooks.detach()
    model = PixelModel(trained.net, trained.data["mean"], trained.data["std"]).to(device)
    return found | measure_all(model, test, outlier_sets(outliers, side, device), ATTACKED)


def check_boxes(run: Line, boxes: Path | None) -> None:
    """See that a run that is to be localized has boxes, before it is trained.

    Raises:
        ValueError: there are none, or they cannot be read.
    """
    if run["config"]["data"] not in LOCALIZED:
        return
    if boxes is None:
        raise ValueError(
            "boxes must be given for cub, whose runs are measured by localization, got none: pass --boxes with the "
            "folder metadata/CUB/test of wsolevaluation."
        )
    try:
        read_box_files(boxes)
    except ValueError as error:
        raise ValueError(f"boxes must be a folder of the boxes of cub, got {str(boxes)!r}: {error}") from error


def train_alone(config: TrainConfig) -> None:
    """Train, or go on, in this process, whatever precision an earlier run of this process had."""
    AcceleratorState._reset_state()
    train_or_go_on(config)


def training_config(run: Line, data: str, folder: Path) -> TrainConfig:
    """The options of a run's training.

    Raises:
        ValueError: one is outside its range.
    """
    name = hashlib.sha256(identity(run).encode()).hexdigest()[:16]
    config = TrainConfig(**{**run["config"], "data": data}, seed=run["seed"], resume="auto", output=str(folder / name))
    config.check()
    return config
