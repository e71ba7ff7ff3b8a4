"""Images decoded from a column of a dataset: upright, with 8 bits a channel, whatever the file holds."""

import contextlib
import functools
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError
from torch.utils.data import get_worker_info

MAX_PIXELS = 178_956_970  # above them Pillow, as it comes, suspects a decompression bomb
_logger = logging.getLogger(__name__)

_ORIENTATION, _PHOTOMETRIC, _BITS_PER_SAMPLE = 0x0112, 0x0106, 0x0102  # tags of EXIF and TIFF
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_DARK = 16  # of 255: an image without a brighter pixel is black to the eye


class TooManyPixelsError(OSError):
    """An image is larger than any that is decoded."""


def read_image(value: Any, mode: str, max_pixels: int = MAX_PIXELS, defer: bool = False) -> Image.Image:
    """Decode the image of an undecoded column, upright, as ``RGB`` or ``L``.

    Grey images of unsigned 12-bit or 16-bit integers are scaled by the range of these, floats from [0, 1]; one that is
    nearly black then is warned of. Damaged EXIF data are passed over, and the image is taken as it is stored.

    Args:
        value: A mapping with ``bytes`` or ``path``.
        mode: ``RGB`` or ``L``.
        max_pixels: The largest image that is decoded.
        defer: Leave a JPEG that needs no change to whoever first uses its pixels, who may ``draft`` a smaller one.

    Raises:
        OSError: there is no image; it cannot be read; or it holds signed or 32-bit integers, or floats outside [0, 1],
            which have no agreed white.
        TooManyPixelsError: it has more pixels.
    """
    try:
        with warnings.catch_warnings(), _limited(max_pixels):
            warnings.simplefilter("ignore")  # palettes with transparency, odd EXIF data
            picture: Image.Image = Image.open(_source(value))
            if not (defer and picture.format == "JPEG" and picture.mode == mode):
                picture.load()
            orientation = _orientation(picture)
            if picture.mode.startswith(("I", "F")):
                picture = _with_8_bits(picture)
            picture = picture if orientation is None else picture.transpose(orientation)
            return picture if picture.mode == mode else picture.convert(mode)
    except UnidentifiedImageError as error:  # whose message holds the address of a buffer
        raise OSError("cannot identify image file") from error
    except Image.DecompressionBombError as error:
        raise TooManyPixelsError(f"it has more than {max_pixels} pixels, as a decompression bomb may") from error
    except (OSError, MemoryError):
        raise
    except Exception as error:  # each of Pillow's decoders raises what it likes for a damaged file
        raise OSError(" ".join(str(error).split()) or type(error).__name__) from error


def decoded_size(value: Any, mode: str, max_pixels: int = MAX_PIXELS) -> int:
    """Bytes of the pixels that :func:`read_image` would return, from the head of the file; 0 if it cannot be read."""
    try:
        with warnings.catch_warnings(), _limited(max_pixels):
            warnings.simplefilter("ignore")
            with Image.open(_source(value)) as picture:
                return int(picture.width * picture.height * len(mode))
    except Exception:  # of many kinds: said when it is decoded
        return 0


def _source(value: Any) -> Any:
    """What Pillow opens."""
    if value is None or not (value.get("bytes") or value.get("path")):
        raise OSError("it is missing")
    return io.BytesIO(value["bytes"]) if value.get("bytes") else value["path"]


@contextlib.contextmanager
def _limited(max_pixels: int) -> Iterator[None]:
    """Let Pillow refuse larger images: those of more than twice its limit, which is set for this call alone."""
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, -(-max_pixels // 2)
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _orientation(picture: Image.Image) -> Image.Transpose | None:
    """What turns the image upright; None if nothing has to, or its EXIF data cannot be read."""
    if picture.format == "JPEG" and not picture.info.keys() & {"exif", "xmp"}:
        return None  # which Pillow takes its time to find
    try:
        return _UPRIGHT.get(picture.getexif().get(_ORIENTATION, 1))
    except Exception:  # SyntaxError, struct.error, TypeError, AttributeError, ...: the pixels are none the worse for it
        return None


def _with_8_bits(picture: Image.Image) -> Image.Image:
    """A deep grey image as ``L``, scaled by the range of its numbers."""
    values, white, tags = np.asarray(picture), _white(picture), getattr(picture, "tag_v2", {})
    low, high = values.min(), values.max()
    if white is None:
        raise OSError(
            f"its signed or 32-bit integers, from {low} to {high}, have no agreed white: save it with 8 bits, or as "
            "unsigned 16-bit integers from 0 to 65535"
        )
    if not (low >= 0 and high <= white):  # or NaN
        raise OSError(
            f"its numbers must be in [0, {white:g}], got {low:g} to {high:g}: scale them, or save it with 8 bits"
        )
    levels = np.rint(values * (255 / white)).astype(np.uint8)
    if high > 0 and levels.max() < _DARK:
        _tell_dark(white)
    return Image.fromarray(255 - levels if tags.get(_PHOTOMETRIC) == 0 else levels)


def _white(picture: Image.Image) -> float | None:
    """The number that stands for white; None if there is no agreement on it."""
    if picture.mode == "F":
        return 1.0
    if picture.format in ("PPM", "PNG"):  # 16 bits, to which Pillow scales the former, also where it keeps them in 32
        return 65535.0
    if picture.mode == "I" or picture.format == "FITS":  # whose 16-bit integers are signed
        return None
    bits = getattr(picture, "tag_v2", {}).get(_BITS_PER_SAMPLE, (16,))
    return 2.0 ** bits[0] - 1


@functools.cache
def _tell_dark(white: float) -> None:
    """Warn of a nearly black image, once in a process, and not in every data worker."""
    worker = get_worker_info()
    if worker is None or worker.id == 0:
        _logger.warning(
            "At least one deep image is nearly black: white is %g in its file, and it has no number above a sixteenth "
            "of that. If its numbers have a smaller range, scale them.",
            white,
        )
