"""Image files of any mode, decoded."""

import io
import warnings
from typing import Any

from PIL import Image, ImageOps


def read_image(value: Any, mode: str) -> Image.Image:
    """Decode the image of an undecoded column, upright, as ``RGB`` or ``L``.

    Raises:
        OSError: there is no image, or it cannot be read.
    """
    if value is None or not (value.get("bytes") or value.get("path")):
        raise OSError("it is missing")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # palettes with transparency, odd EXIF data
            picture: Image.Image = Image.open(io.BytesIO(value["bytes"]) if value.get("bytes") else value["path"])
            picture = ImageOps.exif_transpose(picture)
            if picture.mode.startswith("I;16"):
                picture = picture.point(lambda level: level / 256).convert("L")
            return picture.convert(mode)
    except (SyntaxError, ValueError, Image.DecompressionBombError) as error:  # what PIL raises for broken files
        raise OSError(str(error)) from error
