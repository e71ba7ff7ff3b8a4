"""Photos as input of a model, and boxes around the objects in them: from files and from datasets of Hugging Face."""

from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor, nn

from .box_column import BoxColumn, BoxFormat
from .images import read_image
from .normalization import statistics_of

_IMAGES = ("image", "img", "photo", "pixel_values")


class Photo(NamedTuple):
    """An image, upright, in RGB, and the boxes (x0, y0, x1, y1) around its objects in pixels, [K, 4] float64."""

    image: Image.Image
    boxes: Tensor


def read_photo(path: str | Path) -> Image.Image:
    """An image file as :func:`read_image` reads it, in RGB.

    Raises:
        ValueError: there is no such file, or it cannot be read.
    """
    try:
        return read_image({"path": str(path)}, "RGB")
    except OSError as error:
        reason = "does not exist" if not Path(path).exists() else f"cannot be read as one: {error}"
        raise ValueError(f"image must be an image file, got {path}, which {reason.rstrip('.')}.") from error


def crop_of(image: Image.Image, height: int, width: int) -> tuple[float, float, float, float]:
    """The largest part at the centre with the aspect ratio of the model's input: left, top, right, bottom in pixels."""
    share = min(image.width / width, image.height / height)
    left, top = (max((image.width - share * width) / 2, 0.0), max((image.height - share * height) / 2, 0.0))
    return left, top, image.width - left, image.height - top


def cropped(image: Image.Image, channels: int, height: int, width: int) -> Tensor:
    """That part, resized to this height and width: [C, H, W] in [0, 1], grey for one channel, else RGB."""
    image = image.convert("L" if channels == 1 else "RGB")
    image = image.resize((width, height), Image.Resampling.BICUBIC, box=crop_of(image, height, width))
    pixels = torch.from_numpy(np.array(image)).float() / 255
    return pixels[None] if channels == 1 else pixels.permute(2, 0, 1)


def boxes_in_crop(photo: Photo, height: int, width: int) -> Tensor:
    """The boxes as shares of the width and height of that part, [K, 4]; what was cut off lies outside [0, 1]."""
    left, top, right, bottom = crop_of(photo.image, height, width)
    corner = torch.tensor([left, top] * 2, dtype=torch.float64)
    return (photo.boxes - corner) / torch.tensor([right - left, bottom - top] * 2, dtype=torch.float64)


def normalized(net: nn.Module, pixels: Tensor) -> Tensor:
    """Images [..., C, H, W] in [0, 1] by the mean and standard deviation of the model's configuration."""
    channels = pixels.shape[-3]
    known = statistics_of(net, channels) or ((0.5,) * channels,) * 2
    mean, std = map(torch.tensor, known)
    return (pixels - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)


class PhotoData:
    """The photos of a dataset.

    Args:
        data: Name on the Hub, or a folder: of parquet files, of images, or of ``save_to_disk``.
        split: Name of the split.
        image_column: None is the first column of images.
        boxes, box_format: Of a :class:`BoxColumn`; None: photos have no boxes.

    Raises:
        ValueError: the data cannot be loaded, or have no such split or column.
    """

    def __init__(
        self,
        data: str,
        split: str = "train",
        image_column: str | None = None,
        boxes: str | None = None,
        box_format: BoxFormat = "xyxy",
    ) -> None:
        self.boxes = None if boxes is None else BoxColumn(boxes, box_format)
        rows = _load(data, split)
        columns = list(rows.features)
        typed = [name for name, feature in rows.features.items() if isinstance(feature, datasets.Image)]
        image = image_column or next((name for name in (*typed, *_IMAGES) if name in columns), None)
        if image is None or image not in columns:
            raise ValueError(f"image_column must be one of the columns {columns}, got {image!r}.")
        if self.boxes is not None:
            self.boxes.check(columns)
        needed = [image] if self.boxes is None else list(dict.fromkeys((image, self.boxes.column)))
        try:
            if not _may_hold_images(rows.data.schema.field(image).type):
                raise TypeError
            self.image, self.rows = image, rows.select_columns(needed).cast_column(image, datasets.Image(decode=False))
        except (NotImplementedError, TypeError, ValueError) as error:  # what pyarrow and datasets raise
            raise ValueError(f"image_column {image!r} must hold images, it holds {rows.features[image]}.") from error

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> Photo:
        example = self.rows[row]
        try:
            image = read_image(example[self.image], "RGB")
        except OSError as error:
            raise ValueError(f"the image of row {row} cannot be read: {error}.") from error
        if self.boxes is None:
            return Photo(image, torch.zeros(0, 4, dtype=torch.float64))
        return Photo(image, self.boxes.read(example, image.width, image.height, row))


def _may_hold_images(kind: pa.DataType) -> bool:
    """Files of images as bytes or paths, or the bytes of their pixels in nested lists."""
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 or kind.get_field_index("path") >= 0
    nested = pa.types.is_list(kind)
    while pa.types.is_list(kind):
        kind = kind.value_type
    if nested:
        return kind == pa.uint8()
    files = pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary
    return any(is_kind(kind) for is_kind in files)


def _load(data: str, split: str) -> Any:
    """One split; the errors of several libraries become one sentence."""
    path = Path(data).expanduser()
    try:
        if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
            saved = datasets.load_from_disk(str(path))
            return saved[split] if isinstance(saved, dict) else saved
        return datasets.load_dataset(str(path) if path.exists() else data, split=split)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).rstrip(".")
        raise ValueError(
            f"cannot load split {split!r} of {data!r}: {reason}. Pass --images a folder that exists, or the name of a "
            "dataset on the Hub that this machine can reach, and --split."
        ) from error
