"""Images with classes and boxes listed in the files of wsolevaluation, which has them for CUB-200-2011.

https://github.com/clovaai/wsolevaluation, ``metadata/CUB/test``: ``image_ids.txt`` has the path of an image in each
line, ``class_labels.txt`` lines ``PATH,CLASS``, ``image_sizes.txt`` ``PATH,WIDTH,HEIGHT``, and ``localization.txt``
``PATH,X0,Y0,X1,Y1``, one for each box.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .boxes import check_boxes

FILES = ("image_ids.txt", "class_labels.txt", "image_sizes.txt", "localization.txt")


class BoxedImage(NamedTuple):
    """The index of an image's class, its (width, height), and boxes (x0, y0, x1, y1) in its pixels, [G, 4]."""

    label: int
    size: tuple[int, int]
    boxes: np.ndarray


def read_box_files(folder: Path) -> dict[str, BoxedImage]:
    """The images of a split by their paths, in the order of its ``image_ids.txt``.

    Args:
        folder: Of the four files.

    Raises:
        ValueError: a file is missing or has a line of another kind, an image has no class, size or box, or a box that
            is not in the image; says which.
    """
    names = [line for _, line in _lines(folder / "image_ids.txt")]
    if not names:
        raise ValueError(f"{folder / 'image_ids.txt'} lists no images.")
    labels = {name: values[0] for name, values in _values(folder / "class_labels.txt", 1)}
    sizes = dict(_values(folder / "image_sizes.txt", 2))
    boxes: dict[str, list[list[float]]] = {}
    for name, values in _values(folder / "localization.txt", 4):
        boxes.setdefault(name, []).append(values)
    for file, known in (("class_labels.txt", labels), ("image_sizes.txt", sizes), ("localization.txt", boxes)):
        if missing := [name for name in names if name not in known]:
            raise ValueError(f"{folder / file} must have a line for each image, and has none for {missing[0]}.")
    found = {}
    for name in names:
        width, height = map(int, sizes[name])
        truth = np.array(boxes[name])
        check_boxes(truth, width, height, f"{folder / 'localization.txt'} for {name}")
        found[name] = BoxedImage(int(labels[name]), (width, height), truth)
    return found


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not empty, and their numbers."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{file} cannot be read: {error}. The folder must have {', '.join(FILES)}, as metadata/CUB/test of "
            "wsolevaluation has."
        ) from error
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield number, line.strip()


def _values(file: Path, count: int) -> Iterator[tuple[str, list[float]]]:
    """The path and the numbers of each line; a path may have commas in it."""
    for number, line in _lines(file):
        name, *texts = line.rsplit(",", count)
        try:
            values = [float(text) for text in texts]
        except ValueError:
            values = []
        if len(values) != count or not np.isfinite(values).all():
            raise ValueError(f"line {number} of {file} must be a path and {count} numbers with commas, got {line!r}.")
        yield name, values
