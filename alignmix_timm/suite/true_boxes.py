"""Where the objects are: boxes from a column of the data, or from the files that wsolevaluation has for a dataset."""

from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..evaluation.box_files import BoxedImage, read_box_files
from ..evaluation.boxes import check_boxes, resized_boxes
from ..points.box_column import BoxColumn
from .context import Context
from .data import Images


class TrueBoxes(NamedTuple):
    """The rows that have boxes, and their boxes in pixels of the model's input, [G, 4] of integers each."""

    rows: list[int]
    boxes: list[np.ndarray]

    def padded(self) -> Tensor:
        """All boxes, [N, G, 4], where G is their largest number; -1 where a row has fewer."""
        return torch.nn.utils.rnn.pad_sequence(list(map(torch.tensor, self.boxes)), True, -1)


def true_boxes(context: Context) -> TrueBoxes:
    """Read the boxes that the options name; all processes must call it alike.

    Raises:
        ValueError: a row has no box, or one that is not in its image; files do not fit the data.
    """
    options = context.options
    if options.localization_box_files is not None:
        found = _from_files(context, options.localization_box_files)
    else:
        found = _from_column(context, BoxColumn(options.localization_boxes, options.localization_box_format))
    height, width = context.subject.preprocessing["input_size"][1:]
    rows, boxes = [], []
    for row, (image_width, image_height), truth in found:
        check_boxes(truth, image_width, image_height, f"row {row}")
        rows.append(row)
        boxes.append(resized_boxes(truth, (image_width, image_height), (width, height)))
    return TrueBoxes(rows, boxes)


def check_columns(context: Context) -> None:
    """Raise a ValueError if the data have no column of the name that the options give for boxes."""
    if context.options.localization_boxes is not None:
        BoxColumn(context.options.localization_boxes).check(list(context.data.rows.features))


class _Sizes(Dataset):
    """The (width, height) of upright images."""

    def __init__(self, images: Images) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> Tensor:
        return torch.tensor(self.images.picture(row).size)


def _sizes(context: Context) -> list[tuple[int, int]]:
    found = context.over(_Sizes(context.images), lambda sizes, rows: {"size": sizes}, "sizes of images")["size"]
    return [(width, height) for width, height in found.tolist()]


def _from_column(context: Context, column: BoxColumn) -> Iterator[tuple[int, tuple[int, int], np.ndarray]]:
    examples = context.data.rows.select_columns([column.column])
    for row, ((width, height), example) in enumerate(zip(_sizes(context), examples, strict=True)):
        yield row, (width, height), column.read(example, width, height, row).numpy()


def _from_files(context: Context, folder: Path) -> Iterator[tuple[int, tuple[int, int], np.ndarray]]:
    """Of the rows whose image has a path that ends as one in the files."""
    listed, sizes = read_box_files(folder), _sizes(context)
    found: dict[str, int] = {}
    for row, example in enumerate(context.data.rows.select_columns([context.data.image])):
        name = _listed(example[context.data.image]["path"] or "", listed)
        if name is None:
            continue
        found[name] = row
        if listed[name].size != sizes[row]:
            raise ValueError(
                f"{folder / 'image_sizes.txt'} must have the sizes of the images, got {listed[name].size} for {name}, "
                f"which has {sizes[row]}. Pass the images that the files were made for."
            )
        yield row, listed[name].size, listed[name].boxes
    if not found:
        raise ValueError(
            f"{folder / 'image_ids.txt'} must have paths of images of the data, such as {next(iter(listed))!r}."
        )
    _check_classes(context, folder, {name: (listed[name].label, row) for name, row in found.items()})


def _listed(path: str, listed: dict[str, BoxedImage]) -> str | None:
    """The longest end of a path that is among the listed ones."""
    parts = PurePath(path).parts
    return next((name for start in range(len(parts)) if (name := "/".join(parts[start:])) in listed), None)


def _check_classes(context: Context, folder: Path, found: dict[str, tuple[int, int]]) -> None:
    """Raise a ValueError if the files put images into one class, or apart, where the data do not."""
    if context.labels is None:
        return
    pairs = {(label, int(context.labels[row])): name for name, (label, row) in found.items()}
    if len(pairs) != len({listed for listed, _ in pairs}) or len(pairs) != len({own for _, own in pairs}):
        raise ValueError(f"{folder / 'class_labels.txt'} must have the classes of the data, and has others.")
