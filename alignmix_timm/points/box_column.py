"""Boxes around objects, from a column of a dataset of Hugging Face."""

import math
import reprlib
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..evaluation.boxes import in_image

BoxFormat = Literal["xyxy", "xywh"]


class BoxColumn(NamedTuple):
    """Where a dataset has boxes, in pixels of the upright image.

    Attributes:
        name: Of a column with ``[[x0, y0, x1, y1], ...]`` in each row, or of a field within one: ``objects.bbox``.
            A row with a single box may have it as it is.
        box_format: ``xywh`` for boxes of corner, width and height, as in COCO.
    """

    name: str
    box_format: BoxFormat = "xyxy"

    @property
    def column(self) -> str:
        """The whole column, which may have the boxes in a field."""
        return self.name.partition(".")[0]

    def check(self, columns: list[str]) -> None:
        """Raise a ValueError if a dataset with these columns has no such column."""
        if self.column not in columns:
            raise ValueError(f"boxes must be one of the columns {columns}, or a field of one, got {self.name!r}.")

    def read(self, example: dict[str, Any], width: int, height: int, row: int) -> Tensor:
        """The boxes (x0, y0, x1, y1) of a row whose image has this size, [K, 4] float64.

        Raises:
            ValueError: the row has no such field, a box of other than four numbers, or one outside the image.
        """
        values: Any = example
        for name in self.name.split("."):
            try:
                values = [value[name] for value in values] if isinstance(values, list) else values[name]
            except (KeyError, TypeError, IndexError) as error:
                raise ValueError(
                    f"boxes must be a column or a field of one, got {self.name!r}, whose {name!r} is none."
                ) from error
        boxes = []
        for box in _single_or_list(values):
            if not _is_box(box):
                raise ValueError(f"boxes must have four finite numbers each, got {reprlib.repr(box)} in row {row}.")
            x, y, last_x, last_y = map(float, box)
            corners = (x, y, x + last_x, y + last_y) if self.box_format == "xywh" else (x, y, last_x, last_y)
            if not in_image(np.array([corners]), width, height).all():
                raise ValueError(
                    f"boxes must lie in the image, {self.box_format} in pixels, got {list(box)} in row {row}, whose "
                    f"image has {width} x {height}. Correct the row, or --box-format (of evaluate, "
                    "--localization-box-format): xyxy is the upper left and the lower right corner, xywh the upper "
                    "left corner, width and height."
                )
            boxes.append(corners)
        return torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4)


def _single_or_list(values: Any) -> list[Any]:
    """What a row has as a list of boxes; anything else than lists is one thing, and no box."""
    if values is None:
        return []
    several = isinstance(values, list) and all(isinstance(box, list | tuple) for box in values)
    return values if several else [values]


def _is_box(box: Any) -> bool:
    return isinstance(box, list | tuple) and len(box) == 4 and all(map(_is_finite, box))


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
