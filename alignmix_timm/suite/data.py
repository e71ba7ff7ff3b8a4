"""The rows to evaluate on: from whatever ``alignmix-timm train --data`` reads, as pixels in [0, 1]."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ..points.images import read_image
from ..publishing.provenance import find_dataset, rows_of
from ..seeds import Stream, generator
from ..training.config import TrainConfig, find_config, read_yaml
from ..training.data.labels import find_image, find_label
from ..training.data.parts import Part, evaluation_part, measures_all
from ..training.data.sources import find_source
from ..training.data.split_names import find_split
from ..training.data.splits import hold_out
from .subject import Subject

_READ = 1000  # rows that are hashed at once


class Images(Dataset):
    """Images by the number of their row, decoded and transformed; from this on nothing knows where they come from.

    Args:
        rows: A map-style dataset; the column of images is undecoded.
        column: Of the images.
        mode: Pillow's: ``L`` or ``RGB``.
        transform: From a PIL image to pixels.
    """

    def __init__(self, rows: Any, column: str, mode: str, transform: Callable[[Image.Image], Tensor]) -> None:
        self.rows, self.column, self.mode, self.transform = rows, column, mode, transform

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> Tensor:
        """Pixels [C, H, W] in [0, 1]."""
        return self.transform(self.picture(row))

    def picture(self, row: int) -> Image.Image:
        """The whole image, upright.

        Raises:
            ValueError: it cannot be read.
        """
        value = self.rows[row][self.column]
        try:
            return read_image(value, self.mode)
        except OSError as error:
            name = (value or {}).get("path")
            which = f"of row {row}, {name}," if name else f"of row {row}"
            raise ValueError(f"the image {which} cannot be read: {error}. Take it out of the data.") from error


class Data(NamedTuple):
    """The rows of a split.

    Attributes:
        rows: All columns of a map-style dataset; the images are undecoded.
        image: Name of the column of images.
        label: Name of the column of labels; None if there is none.
        described: For ``evaluation.json``: name, split, number of rows, revision, and a hash of images and labels.
        digests: Of each image as it is stored: the same for copies of it.
    """

    rows: datasets.Dataset
    image: str
    label: str | None
    described: dict[str, Any]
    digests: list[bytes]

    def images(self, subject: Subject) -> Images:
        """The images as this model evaluates them."""
        return Images(self.rows, self.image, subject.mode, subject.transform)

    def digest(self, columns: Sequence[str]) -> str | None:
        """A hash of the values in these columns, as they are stored; None if there are none."""
        found = [column for column in columns if column in self.rows.features]
        if not found:
            return None
        batches = self.rows.select_columns(found).with_format("arrow").iter(_READ)
        return hashlib.sha256(repr([batch.to_pylist() for batch in batches]).encode()).hexdigest()


def load_data(
    data: str,
    split: str | None = None,
    *,
    data_config: str | None = None,
    revision: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    count: int | None = None,
    seed: int = 0,
    run: Path | None = None,
) -> Data:
    """Load one split.

    Args:
        data: A folder or the name of a dataset, as ``--data`` of the training.
        split: Its name; None is the evaluation split, or the only one. For data without one that ``run`` trained on,
            these are the rows that it held out.
        data_config, revision: Of the dataset.
        image_column, label_column: None: by their names and types, as in the training.
        count: Rows to take, drawn at random by ``seed``; None is all.
        seed: Of this draw.
        run: Folder of the run that trained the model.

    Raises:
        ValueError: there is no such data, split or column, or there are no rows.
    """
    config = _options(
        TrainConfig(data=data, val_split=split, data_config=data_config, revision=revision, seed=seed), run
    )
    part, held_out = _choose(config)
    rows = part.load()
    image = find_image(rows.features, image_column or config.image_column).name
    label = _label(rows.features, label_column or config.label_column)
    rows = rows.cast_column(image, datasets.Image(decode=False))
    if held_out:
        _, rows = hold_out(rows, config)
    if count is not None and count < len(rows):
        chosen = generator(seed, Stream.SPLIT).permutation(len(rows))[:count]
        rows = rows.select(np.sort(chosen))
    if not len(rows):
        raise ValueError(
            f"data must have rows, got none in the split {part.split!r} of {data!r}. Pass another --split."
        )
    known, digests = find_dataset(data, data_config, revision), _digests(rows, image)
    labels = None if label is None else rows.select_columns([label])[:][label]
    described = {
        "name": known.name,
        "config": known.config,
        "revision": known.revision,
        "split": rows_of(part.split, held_out),
        "rows": len(rows),
        "sha256": hashlib.sha256(repr(labels).encode() + b"".join(digests)).hexdigest(),
    }
    return Data(rows, image, label, described, digests)


def _options(asked: TrainConfig, run: Path | None) -> TrainConfig:
    """What is asked for; on the data that a run trained on, with its options of splits and columns."""
    if run is None:
        return asked
    trained = TrainConfig(**read_yaml(find_config(str(run))))
    names = ("train_split", "val_fraction", "seed", "image_column", "label_column")
    same = replace(asked, eval_only=str(run), **{name: getattr(trained, name) for name in names})
    same.val_split = asked.val_split or trained.val_split
    return asked if measures_all(same) else same


def _choose(config: TrainConfig) -> tuple[Part, bool]:
    """The split to evaluate on, and whether only the rows that a run held out of it."""
    source = find_source(config)
    part = evaluation_part(config, source)
    if part is not None:
        return part, False
    names = source.names
    found = find_split(config.train_split, names) or (names[0] if len(names) == 1 else None)
    if found is None:
        raise ValueError(f"{config.data!r} has no evaluation split among {names}: pass --split with one of them.")
    return Part(source, found), bool(config.eval_only)


def _label(features: datasets.Features, wanted: str | None) -> str | None:
    try:
        return find_label(features, wanted).name
    except ValueError:
        if wanted is not None:
            raise
        return None


def _digests(rows: datasets.Dataset, image: str) -> list[bytes]:
    batches = rows.select_columns([image]).iter(_READ)
    return [hashlib.sha256(_stored(value)).digest() for batch in batches for value in batch[image]]


def _stored(value: Any) -> bytes:
    """The bytes of an image, in the column or in a file of its own."""
    if value and value.get("bytes"):
        return value["bytes"]
    path = Path(value["path"]) if value and value.get("path") else None
    return path.read_bytes() if path and path.is_file() else repr(value).encode()
