"""A small image dataset, decoded once and held in memory."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import datasets
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

from ..training.config import TrainConfig
from ..training.data.dataset import read_image
from ..training.data.splits import load_splits

PAD = 2


class Images(Dataset):
    """(image, label) pairs: float images [3, S, S] in [-1, 1]; random crops and flips if asked for.

    Attributes:
        pixels: [N, 3, S, S] uint8.
        labels: [N] int64.
        split: Name of the split they come from, as far as it is known.
    """

    def __init__(self, pixels: Tensor, labels: Tensor, augment: bool = False, split: str | None = None) -> None:
        self.pixels, self.labels, self.augment, self.split = pixels, labels, augment, split
        self.size = (pixels.shape[1], pixels.shape[2], pixels.shape[3])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = self.pixels[index]
        if self.augment:
            top, left = torch.randint(2 * PAD + 1, (2,)).tolist()
            size = image.shape[-1]
            image = torch.nn.functional.pad(image, (PAD,) * 4)[:, top : top + size, left : left + size]
            image = image.flip(2) if torch.rand(()) < 0.5 else image
        return image.float() / 127.5 - 1, self.labels[index]

    def subset(self, count: int, seed: int, augment: bool) -> "Images":
        """At most ``count`` images, drawn at random."""
        rows = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))[:count]
        return Images(self.pixels[rows], self.labels[rows], augment, self.split)


def load(
    path: str | Path, size: int, image_column: str | None = None, label_column: str | None = None
) -> tuple[Images, Images, list[str]]:
    """Load an image dataset, by name or from a folder.

    Splits and columns are found as ``train.py`` finds them.

    Returns:
        Training images, test images, names of the classes.

    Raises:
        ValueError: the data cannot be loaded; a split, column, label or image is not as it must be.
    """
    splits = load_splits(TrainConfig(data=str(path), image_column=image_column, label_column=label_column))
    train, test = (decoded(part, splits.image, splits.label, size) for part in (splits.train, splits.test))
    return train, test, splits.names


def of_classes(
    path: str, size: int, per_class: int, test_per_class: int | None = None, classes: int | None = None
) -> tuple[Images, Images, int]:
    """The first images of each class, of all classes or of that many, spread evenly over all and numbered anew.

    Args:
        path: Name or folder of the dataset.
        size: Side of the images.
        per_class: Training images of each class.
        test_per_class: At most that many test images of each class; None is all.
        classes: None is all.

    Returns:
        Training images, test images, the number of classes.

    Raises:
        ValueError: the data cannot be loaded, or have fewer classes, or fewer training images of one.
    """
    splits = load_splits(TrainConfig(data=path))
    total = len(splits.names)
    count = total if classes is None else classes
    if count > total:
        raise ValueError(f"data must have at least {count} classes, {path!r} has {total}.")
    kept = [number * total // count for number in range(count)]
    found = np.bincount(np.asarray(splits.train[splits.label]), minlength=total)[kept]
    if found.min() < per_class:
        few = splits.names[kept[int(found.argmin())]]
        raise ValueError(
            f"data must have at least {per_class} training images of each class, {path!r} has {found.min()} of {few!r}."
        )

    def first(part: datasets.Dataset, each: int | None) -> Images:
        some = part.select(first_rows(part[splits.label], kept, each))
        chosen = decoded(some, splits.image, splits.label, size)
        chosen.labels = torch.from_numpy(np.searchsorted(kept, chosen.labels.numpy()))
        return chosen

    return first(splits.train, per_class), first(splits.test, test_per_class), count


def decoded(rows: datasets.Dataset, image: str, label: str, size: int) -> Images:
    """Rows with these columns of images and labels; OSError becomes ValueError, which names the row."""
    pixels = []
    for row, value in enumerate(rows[image]):
        try:
            pixels.append(_pixels(read_image(value, "RGB"), size))
        except OSError as error:
            raise ValueError(f"the image of row {row} of split {rows.split} cannot be read: {error}.") from error
    return Images(torch.stack(pixels), torch.tensor(rows[label]), split=None if rows.split is None else str(rows.split))


def first_rows(labels: Sequence[int], classes: Iterable[int], count: int | None) -> np.ndarray:
    """The rows of the first images of each of these classes, in the order of the dataset; all images for None."""
    known = np.asarray(labels)
    return np.sort(np.concatenate([np.flatnonzero(known == label)[:count] for label in classes]))


def _pixels(picture: Image.Image, size: int) -> Tensor:
    pixels = v2.functional.pil_to_tensor(picture)
    return v2.functional.center_crop(v2.functional.resize(pixels, [size]), [size, size])
