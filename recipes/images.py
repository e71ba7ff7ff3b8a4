"""A small image dataset, decoded once and held in memory."""

from pathlib import Path

import datasets
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

PAD = 2


class Images(Dataset):
    """(image, label) pairs: float images [3, S, S] in [-1, 1]; random crops and flips if asked for.

    Attributes:
        pixels: [N, 3, S, S] uint8.
        labels: [N] int64.
    """

    def __init__(self, pixels: Tensor, labels: Tensor, augment: bool = False) -> None:
        self.pixels, self.labels, self.augment = pixels, labels, augment
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
        return Images(self.pixels[rows], self.labels[rows], augment)


def load(
    path: str | Path, size: int, image_column: str | None = None, label_column: str | None = None
) -> tuple[Images, Images, list[str]]:
    """Load a Hugging Face dataset with a training and a test split, by name or from a folder.

    Returns:
        Training images, test images, names of the classes.

    Raises:
        SystemExit: no such column or split; names those there are.
    """
    splits = datasets.load_dataset(str(path))
    features = splits[next(iter(splits))].features
    image = image_column or _first(features, datasets.Image)
    label = label_column or _first(features, datasets.ClassLabel)
    if image not in features or label not in features:
        raise SystemExit(f"--image-column and --label-column must be among the columns {list(features)} of {path}.")
    tests = [name for name in ("test", "validation", "val", "valid") if name in splits]
    if "train" not in splits or not tests:
        raise SystemExit(f"{path} needs a split 'train' and one of test, validation; it has {list(splits)}.")
    parts = []
    for split in ("train", tests[0]):
        pixels = [_pixels(picture, size) for picture in splits[split][image]]
        parts.append(Images(torch.stack(pixels), torch.tensor(splits[split][label])))
    return parts[0], parts[1], list(features[label].names)


def _first(features: datasets.Features, kind: type) -> str | None:
    return next((name for name, feature in features.items() if isinstance(feature, kind)), None)


def _pixels(picture: object, size: int) -> Tensor:
    pixels = v2.functional.pil_to_tensor(picture.convert("RGB"))  # type: ignore[attr-defined]
    return v2.functional.center_crop(v2.functional.resize(pixels, [size]), [size, size])
