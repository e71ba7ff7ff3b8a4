"""Out-of-distribution images: the photos of any dataset, cropped or resized to the size of the images of a network."""

import functools
from collections.abc import Iterable

import datasets
import torch
from torch import Tensor
from torchvision.transforms import v2

from ..training.config import TrainConfig
from ..training.data.dataset import read_image
from ..training.data.labels import find_image
from ..training.data.sources import find_source

MOST = 10_000  # images of a set, as in the paper


def outlier_sets(
    places: dict[str, str] | None, side: int, device: torch.device | None = None
) -> dict[str, Tensor] | None:
    """:func:`outlier_pixels` of each name or folder, by the name of the set."""
    if places is None:
        return None
    return {name: outlier_pixels(path, side, is_cropped(name)).to(device) for name, path in places.items()}


def is_cropped(name: str) -> bool:
    """Whether the images of a set are cropped, not resized."""
    return name.endswith("crop")


@functools.cache
def outlier_pixels(data: str, side: int, crop: bool) -> Tensor:
    """The first images of a dataset, of its test split where it has one.

    Args:
        data: Name or folder.
        side: Height and width of the result.
        crop: Whether to cut it out of the middle; if not, the image is resized, its middle square kept.

    Returns:
        [N, 3, side, side] uint8, at most 10,000.

    Raises:
        ValueError: the data cannot be loaded, or have no rows; an image cannot be read, or is too small to be cropped.
    """
    source = find_source(TrainConfig(data=data))
    split = source.find("test") or next(iter(source.names))
    rows = source.load(split)
    column = find_image(rows.features, None).name
    if not len(rows):
        raise ValueError(f"outliers must have images, split {split!r} of {data!r} has none.")
    rows = rows.select(range(min(MOST, len(rows)))).cast_column(column, datasets.Image(decode=False))
    return torch.stack(list(_squares(rows[column], side, crop, data)))


def _squares(values: Iterable, side: int, crop: bool, data: str) -> Iterable[Tensor]:
    for row, value in enumerate(values):
        try:
            pixels = v2.functional.pil_to_tensor(read_image(value, "RGB"))
        except OSError as error:
            raise ValueError(f"the image of row {row} of {data!r} cannot be read: {error}.") from error
        if not crop:
            pixels = v2.functional.resize(pixels, [side])  # bilinear, with antialiasing
        elif min(pixels.shape[1:]) < side:
            raise ValueError(
                f"outliers must have at least {side} x {side} pixels to be cropped, row {row} of {data!r} has not."
            )
        yield v2.functional.center_crop(pixels, [side, side])
