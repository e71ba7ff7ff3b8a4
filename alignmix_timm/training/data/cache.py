"""Decoded images of a small dataset, kept in memory that all data workers of a process share."""

import mmap
import multiprocessing
from typing import Any

import numpy as np
from PIL import Image

from ...points.images import decoded_size

MEGABYTE = 10**6


class ImageCache:
    """The images of a dataset, each kept when it is decoded for the first time, in whichever worker.

    The memory is taken from the system as it is filled, and is shared with processes that are forked.

    Args:
        sizes: Bytes of each decoded image; 0 for one that is not to be kept.
        mode: ``RGB`` or ``L``.
    """

    def __init__(self, sizes: np.ndarray, mode: str) -> None:
        self.mode, self.sizes = mode, sizes
        self.starts = np.cumsum(sizes) - sizes
        self.pixels = np.frombuffer(mmap.mmap(-1, max(int(sizes.sum()), 1)), dtype=np.uint8)
        self.shapes = np.frombuffer(mmap.mmap(-1, 8 * len(sizes)), dtype=np.int32).reshape(-1, 2)  # 0: not kept yet
        self.lock = multiprocessing.get_context("fork").Lock()  # a size is seen only after its pixels

    def find(self, row: int) -> Image.Image | None:
        """The decoded image of a row; None if it is not kept yet."""
        with self.lock:
            width, height = self.shapes[row].tolist()
        if not width:
            return None
        return Image.frombuffer(self.mode, (width, height), self._pixels_of(row), "raw", self.mode, 0, 1)

    def keep(self, row: int, picture: Image.Image) -> None:
        """Keep the decoded image of a row, if it is as large as was said."""
        pixels = np.frombuffer(picture.tobytes(), dtype=np.uint8)
        if len(pixels) == self.sizes[row]:
            self._pixels_of(row)[:] = pixels
            with self.lock:
                self.shapes[row] = picture.size

    def _pixels_of(self, row: int) -> np.ndarray:
        start = self.starts[row]
        return self.pixels[start : start + self.sizes[row]]


def decoded_sizes(rows: Any, image: str, mode: str, max_pixels: int, budget: int) -> np.ndarray:
    """Bytes of the decoded images of a dataset, by what their files say; 0 for one that cannot be read.

    Args:
        rows: The dataset, its images undecoded.
        image: Name of their column.
        mode: ``RGB`` or ``L``.
        max_pixels: The largest image that is decoded.
        budget: Bytes, at most.

    Raises:
        ValueError: they need more.
    """
    sizes, total = np.zeros(len(rows), dtype=np.int64), 0
    for row in range(len(rows)):
        sizes[row] = decoded_size(rows[row][image], mode, max_pixels)
        total += int(sizes[row])
        if total > budget:
            needed = round(total / (row + 1) * len(rows) / MEGABYTE)
            raise ValueError(
                f"cache_images must be enough MB for the {len(rows)} decoded images of a split, about {needed}, and "
                f"{budget // MEGABYTE} are left of it for them. Raise it, or leave it out to decode images each time."
            )
    return sizes
