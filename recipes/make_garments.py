"""Make a dataset for localization: garments at random places and sizes on photos, with classes and exact boxes.

    python recipes/make_garments.py garments --photos path/to/photos
    alignmix-timm train --data garments --model resnet18 --img-size 96
    alignmix-timm evaluate output --data garments --localization-boxes boxes

OUT is a dataset of Hugging Face with the splits train and test and the columns image, label and boxes: the corners
[x0, y0, x1, y1] in pixels around each garment, x1 and y1 one beyond its last pixel. The garments are those of
Fashion-MNIST in recipes/data, each split's own, in a random color. With --most above 1, an image has up to so many of
its class that do not overlap. --photos is a folder or a dataset of photos, each used in one split only; without it
backgrounds are colored noise. The same seed and photos make the same images.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from PIL import Image

from alignmix_timm.suite.data import Images, load_data

FASHION_MNIST = Path(__file__).parent / "data" / "fashion_mnist"
SILHOUETTE = 32  # of 255: a garment is where it is brighter
LEAST, MOST = 0.3, 0.7  # side of a garment as a share of that of the image
TRIES = 20  # to find a place beside other garments
IN_TEST = 4  # every fourth photo


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder, which must not exist")
    parser.add_argument("--photos", help="folder or dataset of photos for the backgrounds")
    parser.add_argument("--split", help="split of the photos; default: the evaluation split, or the only one")
    parser.add_argument("--train", type=int, default=4000, help="images of the split train; default 4000")
    parser.add_argument("--test", type=int, default=1000, help="images of the split test; default 1000")
    parser.add_argument("--size", type=int, default=96, help="side of an image in pixels; default 96")
    parser.add_argument("--most", type=int, default=1, help="most garments in an image; default 1")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.out.exists():
        parser.error(f"{args.out} exists: pass another folder")
    if min(args.train, args.test, args.most) < 1 or args.size < 32:
        parser.error("--train, --test and --most must be at least 1, and --size at least 32")
    try:
        made = make(args.photos, args.split, {"train": args.train, "test": args.test}, args.size, args.most, args.seed)
    except ValueError as error:
        sys.exit(f"error: {error}")
    made.save_to_disk(str(args.out))
    print(f"{args.out}: {', '.join(f'{len(rows)} images in {name}' for name, rows in made.items())}")


def make(
    photos: str | None, photo_split: str | None, counts: dict[str, int], size: int, most: int, seed: int
) -> datasets.DatasetDict:
    """The dataset, with so many images in each split.

    Raises:
        ValueError: the photos cannot be read, or are too few.
    """
    garments = datasets.load_dataset("parquet", data_dir=str(FASHION_MNIST / "data"))
    backgrounds = None if photos is None else _photos(photos, photo_split)
    features = datasets.Features(
        image=datasets.Image(),
        label=garments["train"].features["label"],
        boxes=datasets.Sequence(datasets.Sequence(datasets.Value("int64"))),
    )
    made = {}
    for place, (name, count) in enumerate(counts.items()):
        rng = np.random.default_rng([seed, place])
        own = backgrounds and [
            photo for row, photo in enumerate(backgrounds) if (row % IN_TEST == 0) == (name == "test")
        ]
        rows = list(_images(garments[name], own, count, size, most, rng))
        made[name] = datasets.Dataset.from_list(rows, features=features, split=name)
    return datasets.DatasetDict(made)


def _photos(photos: str, split: str | None) -> list[Image.Image]:
    data = load_data(photos, split)
    if len(data.rows) < 2:
        raise ValueError(f"--photos must have at least two photos, one for each split, got {len(data.rows)}.")
    images = Images(data.rows, data.image, "RGB", lambda picture: torch.empty(0))
    return [images.picture(row) for row in range(len(images))]


def _images(
    garments: datasets.Dataset, photos: list[Image.Image] | None, count: int, size: int, most: int, rng: Any
) -> Iterator[dict[str, Any]]:
    labels = np.array(garments["label"])
    for _ in range(count):
        image = crop(photos[rng.integers(len(photos))], size, rng) if photos else noise(size, rng)
        label = int(rng.integers(labels.max() + 1))
        boxes: list[list[int]] = []
        for row in rng.choice(np.flatnonzero(labels == label), rng.integers(1, most + 1)):
            put(image, np.asarray(garments[int(row)]["image"].convert("L")), boxes, rng)
        yield {"image": Image.fromarray(image), "label": label, "boxes": boxes}


def crop(photo: Image.Image, size: int, rng: Any) -> np.ndarray:
    """A random square of a photo, at least half as large as it can be: [S, S, 3] uint8."""
    side = rng.uniform(0.5, 1) * min(photo.size)
    left, top = (rng.uniform(0, length - side) for length in photo.size)
    part = photo.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
    return np.array(part)


def noise(size: int, rng: Any) -> np.ndarray:
    """Colored noise, from coarse to fine: [S, S, 3] uint8."""
    total = np.zeros((size, size, 3))
    for cells, weight in ((3, 60.0), (8, 35.0), (24, 20.0)):
        coarse = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        total += weight * (np.array(coarse.resize((size, size), Image.Resampling.BICUBIC)) / 127.5 - 1)
    return (total + 127.5).clip(0, 255).astype(np.uint8)


def put(image: np.ndarray, garment: np.ndarray, boxes: list[list[int]], rng: Any) -> None:
    """Put a garment [28, 28] into an image [S, S, 3], and its box to the others; neither, if it finds no free place."""
    for _ in range(TRIES):
        levels, inside = resized(garment, int(rng.integers(round(LEAST * len(image)), round(MOST * len(image)) + 1)))
        height, width = inside.shape
        y, x = (int(rng.integers(len(image) - length + 1)) for length in (height, width))
        if not any(x <= x1 and x0 <= x + width and y <= y1 and y0 <= y + height for x0, y0, x1, y1 in boxes):
            color = rng.uniform(0.3, 1, 3)
            image[y : y + height, x : x + width][inside] = (levels[..., None] * color)[inside]
            boxes.append([x, y, x + width, y + height])
            return


def resized(garment: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Its grey levels at another size, and where it is; cut to where it is."""
    levels = np.array(Image.fromarray(garment).resize((side, side), Image.Resampling.BICUBIC))
    inside = levels > SILHOUETTE
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    shape = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return levels[shape], inside[shape]


if __name__ == "__main__":
    main()
