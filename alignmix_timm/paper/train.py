"""Train a run of either scale, on data that options name and that are read before the first run."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..evaluation.ood import NOISE
from ..training.data.sources import find_source
from . import full, small
from .numbers import PaperTable
from .outliers import is_cropped, outlier_pixels
from .results import Line
from .scales import CONFIGS, STANDS_FOR, Scale

DATA = {  # on the Hub or in the project, where no other place is given
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
    "fashion_mnist": "recipes/data/fashion_mnist",
    "tiny_imagenet": "zh-plus/tiny-imagenet",
    "imagenet300": "ILSVRC/imagenet-1k",
    "imagenet100": "ILSVRC/imagenet-1k",
    "cub": "",
}


def known_data(scale: Scale) -> list[str]:
    """The names of the data that a scale trains on."""
    return [name for name in DATA if name in (STANDS_FOR.values() if scale == "small" else CONFIGS)]


def known_outliers(tables: Iterable[PaperTable]) -> list[str]:
    """The names of the out-of-distribution images of these tables, but for noise, which needs no files."""
    measures = [column.measure.split(".") for table in tables for column in table.columns]
    return list(dict.fromkeys(parts[1] for parts in measures if parts[0] == "ood" and parts[1] not in NOISE))


def detects(run: Line) -> bool:
    """Whether out-of-distribution images are detected by the network of a run."""
    return run["config"]["data"] == "cifar100"


class Train:
    """Trains one run.

    Args:
        data: Names or folders of the datasets that are not where ``DATA`` says.
        outliers: Names or folders of out-of-distribution images, by the name of the set.
        boxes: Folder of the boxes of CUB-200-2011, see :func:`.localize.localize`.
        folder: Of the training runs of the paper's scale.
    """

    def __init__(self, data: dict[str, str], outliers: dict[str, str], boxes: Path | None, folder: Path) -> None:
        self.given, self.outliers, self.boxes, self.folder = data, outliers, boxes, folder

    def __call__(self, run: Line) -> dict[str, Any]:
        data, outliers = self._place(run), self.outliers if detects(run) else None
        if run["scale"] == "small":
            return small.train(run, data, outliers)
        return full.train(run, data, outliers, self.folder, self.boxes)

    def check(self, missing: Sequence[Line], lines: Sequence[Line]) -> None:
        """Read what these runs will read; of the paper's scale, whose data are large, only what options name.

        Args:
            missing: The runs to come.
            lines: Of finished runs, with which they will be compared.

        Raises:
            ValueError: it cannot be read; which option names it, and why. Or finished runs were measured on others.
        """
        for name, run in {run["config"]["data"]: run for run in missing}.items():
            data, config = self._place(run), run["config"]
            if run["scale"] == "small":
                with _given("data", name, data):
                    _, test = small.rows(data, config["classes"], config["images_per_class"])
                    _check_alike("test", len(test), run, lines)
            elif name in self.given:
                options = full.training_config(run, data, self.folder)
                with _given("data", name, data):
                    list(find_source(options).names)  # finds out whether it can be reached, and reads no images
            if detects(run):
                for outlier, place in self.outliers.items():
                    with _given("outliers", outlier, place):
                        pixels = outlier_pixels(place, small.SIDE, is_cropped(outlier))  # at both scales CIFAR-100's
                        _check_alike(outlier, len(pixels), run, lines)
            full.check_boxes(run, self.boxes)

    def _place(self, run: Line) -> str:
        """Name or folder of the data of a run."""
        name = run["config"]["data"]
        data = self.given.get(name, DATA[name])
        if not data:
            raise ValueError(f"data must name a folder for {name}, which is not on the Hub: pass --data {name}=PATH.")
        return data


def _check_alike(images: str, count: int, run: Line, lines: Iterable[Line]) -> None:
    """Raise ValueError where finished runs on the data of this one were measured on another number of these images."""
    about = run["scale"], run["config"]["data"]
    alike = (line["result"] for line in lines if (line["scale"], line["config"].get("data")) == about)
    others = {counts[images] for result in alike if images in (counts := result.get("images", {}))} - {count}
    if others:
        raise ValueError(
            f"there are {count:,} {images} images, and finished runs, to be compared with these, were measured on "
            f"{' or '.join(f'{other:,}' for other in sorted(others))}: take the same images, or another --results"
        )


@contextlib.contextmanager
def _given(option: str, name: str, place: str) -> Iterator[None]:
    """Let an error of data say by which option they were given: the reader of datasets knows those of a training."""
    try:
        yield
    except (ValueError, OSError) as error:
        reason = str(error).partition(" Pass --data ")[0].rstrip(".")
        raise ValueError(
            f"{option} {name}={place} cannot be used: {reason}. Pass --{option} {name}=PATH, a folder of images or the "
            "name of a dataset on the Hub."
        ) from error
