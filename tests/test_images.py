"""Image files of every depth, damaged ones, and those that are too large: read, scaled, or refused in a sentence."""

import io
import logging
import random
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image

from alignmix_timm.points.images import _tell_dark, read_image
from alignmix_timm.training.data.dataset import Key, Rows, collate

GRADIENT = np.linspace(0, 1, 256).reshape(16, 16)
EXPECTED = np.arange(256).reshape(16, 16)


def encode(picture: Image.Image, kind: str = "PNG", **options: Any) -> dict[str, Any]:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return {"bytes": buffer.getvalue(), "path": None}


def grey(white: float, dtype: str) -> Image.Image:
    """A gradient from black to the number that is white."""
    return Image.fromarray((GRADIENT * white).astype(dtype))


def pgm(white: int) -> dict[str, Any]:
    pixels = (GRADIENT * white).round().astype(">u2" if white > 255 else "u1")
    return {"bytes": b"P5 16 16 %d\n" % white + pixels.tobytes(), "path": None}


def tiff(values: np.ndarray, bits: int, sample: int = 1, photometric: int = 1, order: str = "<") -> dict[str, Any]:
    """A grey TIFF, written by hand: Pillow writes few of the kinds that it reads."""
    data = values.tobytes()
    tags = [(256, 16), (257, 16), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1), (278, 16)]
    tags += [(279, len(data)), (339, sample)]
    entries = b"".join(
        struct.pack(f"{order}HHII", tag, 4, 1, value)  # as long integers, whatever their size
        for tag, value in tags
    )
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", 8 + len(data))
    return {"bytes": head + data + struct.pack(f"{order}H", len(tags)) + entries + bytes(4), "path": None}


def packed_12_bits(values: np.ndarray) -> np.ndarray:
    pairs = values.reshape(-1, 2).astype(np.uint16)
    high, low = pairs[:, 0], pairs[:, 1]
    return np.stack([high >> 4, (high & 15) << 4 | low >> 8, low & 255], axis=1).astype(np.uint8)


DEEP = {
    "PNG of 16 bits": encode(grey(65535, "<u2")),
    "TIFF of 16 bits": encode(grey(65535, "<u2"), "TIFF"),
    "TIFF of 16 bits, big-endian": encode(grey(65535, ">u2"), "TIFF"),
    "TIFF of 16 bits, compressed": encode(grey(65535, "<u2"), "TIFF", compression="tiff_lzw"),
    "TIFF of 16 bits, white is zero": tiff((GRADIENT[::-1, ::-1] * 65535).astype("<u2"), 16, photometric=0),
    "TIFF of 12 bits": tiff(packed_12_bits((GRADIENT * 4095).round()), 12),
    "TIFF of floats": encode(grey(1, "<f4"), "TIFF"),
    "TIFF of floats, big-endian": tiff(GRADIENT.astype(">f4"), 32, sample=3, order=">"),
    "PFM": encode(grey(1, "<f4"), "PPM"),
    "PGM of 16 bits": pgm(65535),
    "PGM of 10 bits": pgm(1023),
    "PGM of 8 bits": pgm(255),
    "JPEG 2000 of 16 bits": encode(grey(65535, "<u2"), "JPEG2000"),
}


@pytest.mark.parametrize("kind", DEEP)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_deep_grey_is_scaled_by_its_range(kind: str, mode: str) -> None:
    found = np.asarray(read_image(DEEP[kind], mode)).astype(int)
    assert np.abs((found if mode == "L" else found[..., 1]) - EXPECTED).max() <= 1


@pytest.mark.parametrize("dtype", ["<u2", "u1"])
def test_deep_colour_keeps_its_levels(dtype: str) -> None:
    pixels = np.stack([GRADIENT] * 3, axis=-1) * np.iinfo(dtype).max
    ppm = b"P6 16 16 %d\n" % np.iinfo(dtype).max + pixels.round().astype(dtype.replace("<", ">")).tobytes()
    found = np.asarray(read_image({"bytes": ppm, "path": None}, "RGB")).astype(int)
    assert np.abs(found[..., 2] - EXPECTED).max() <= 1


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (
            encode(grey(2**31 - 1, "<i4"), "TIFF"),
            "signed or 32-bit integers, from 0 to 2147483.*, have no agreed white",
        ),
        (tiff((GRADIENT * (2**32 - 1)).astype("<u4"), 32), "signed or 32-bit integers"),
        (tiff((GRADIENT * 60000 - 30000).astype("<i2"), 16, sample=2), "signed or 32-bit integers, from -30000"),
        (encode(grey(255, "<f4"), "TIFF"), r"numbers must be in \[0, 1\], got 0 to 255: scale them"),
        (encode(grey(-1, "<f4"), "TIFF"), r"numbers must be in \[0, 1\], got -1 to -?0"),
        (encode(grey(np.nan, "<f4"), "TIFF"), r"numbers must be in \[0, 1\], got nan"),
    ],
)
def test_numbers_without_an_agreed_white_are_refused(image: dict[str, Any], message: str) -> None:
    with pytest.raises(OSError, match=message):
        read_image(image, "RGB")


def test_a_deep_image_that_is_nearly_black_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    _tell_dark.cache_clear()
    with caplog.at_level(logging.WARNING):
        for white in (65535, 0, 4095, 255):  # the last two hold 12 and 8 bits in 16
            read_image(encode(grey(white, "<u2")), "L")
    assert len(caplog.records) == 1
    assert "nearly black: white is 65535 in its file" in caplog.text


ORIENTED = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
DAMAGED_EXIF = {
    "cut short": ORIENTED[:20],
    "no header": b"Exif\0\0hello, world",
    "a text as orientation": ORIENTED[:20] + b"\0\x02\0\0\0\x01a\0\0\0" + bytes(4),
    "a far offset": ORIENTED[:20] + b"\0\x05\0\0\0\x09\x7f\xff\xff\xff" + bytes(4),
    "two orientations": ORIENTED[:20] + b"\0\x03\0\0\0\x02\0\x06\0\x03" + bytes(4),
    "an unknown orientation": ORIENTED[:25] + b"\x63" + ORIENTED[26:],
    "a pointer to nothing": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x87\x69\0\x02\0\0\0\x01a\0\0\0\0\0\0\0",
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("damage", DAMAGED_EXIF)
def test_damaged_exif_leaves_the_pixels(damage: str, kind: str) -> None:
    picture = Image.new("RGB", (16, 8), (200, 30, 30))
    found = read_image(encode(picture, kind, exif=DAMAGED_EXIF[damage]), "RGB")
    assert found.size == (16, 8)
    assert np.abs(np.array(found.getpixel((3, 3))) - (200, 30, 30)).max() < 10


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_every_orientation_is_turned_upright(kind: str) -> None:
    """Stored so that a viewer who follows the tag sees a white corner at the top left."""
    upright = Image.fromarray(np.pad(np.full((16, 16), 255, np.uint8), ((0, 48), (0, 16))))
    stored = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the inverse, as a number of Image.Transpose
    for orientation, method in stored.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        image = encode(upright.transpose(Image.Transpose(method)).convert("RGB"), kind, exif=exif)
        found = read_image(image, "L")
        assert found.size == upright.size
        assert np.abs(np.asarray(found).astype(int) - np.asarray(upright)).max() < 60, orientation


Image.init()
FORMATS = {"AVIF", "BMP", "DDS", "GIF", "ICO", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "QOI", "SGI", "TGA", "WEBP"}


@pytest.mark.parametrize("kind", sorted(FORMATS & Image.SAVE.keys()))  # some came with later versions of Pillow
def test_damaged_files_are_read_or_refused_in_a_phrase(kind: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    whole, dice = encode(Image.fromarray(pixels), kind)["bytes"], random.Random(kind)
    told = []
    for _ in range(60):
        data = bytearray(whole[: dice.randrange(1, len(whole))] if dice.random() < 0.3 else whole)
        for _ in range(dice.choice((1, 8))):
            data[dice.randrange(min(len(data), 200))] = dice.randrange(256)
        try:
            read_image({"bytes": bytes(data), "path": None}, "RGB")
        except OSError as error:
            told.append(str(error))
    assert len(told) > 5
    assert min(map(len, told)) > 4
    assert "object at 0x" not in "".join(told)


def test_a_damaged_file_is_skipped_or_named_by_its_file() -> None:
    whole = encode(Image.new("RGB", (16, 16), (9, 9, 9)), "DDS")["bytes"]
    damaged = [{"bytes": whole[:-100], "path": "a.dds"}, {"bytes": b"", "path": "/no/such/b.jpg"}, None]
    rows = [{"image": one, "label": 0} for one in (*damaged, {"bytes": whole, "path": "c.dds"})]
    with pytest.raises(ValueError, match=r"the image a.dds \(row 0\) cannot be read: .*Pass --skip-corrupt"):
        Rows(rows, "image", "label", np.asarray, "RGB")[Key(0, 0)]  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"the image /no/such/b.jpg cannot be read: .*No such file"):
        Rows(rows, "image", "label", np.asarray, "RGB")[Key(0, 1)]  # type: ignore[arg-type]
    skipping = Rows(rows, "image", "label", lambda picture: picture, "RGB", skip_corrupt=True)  # type: ignore
    found = skipping[Key(0, 0)]
    assert found["row"] == 3
    assert found["corrupt"] == ["a.dds (row 0)", "/no/such/b.jpg", 2]
    with pytest.raises(ValueError, match="none of the 2 images can be read: leave out --skip-corrupt to see why"):
        Rows(rows[:2], "image", "label", np.asarray, "RGB", skip_corrupt=True)[Key(0, 1)]  # type: ignore[arg-type]
    assert collate([Rows(rows, "image", "label", np.asarray, "RGB", 0, True, replace=False)[Key(0, 1)]]) == {  # type: ignore
        "corrupt": ["/no/such/b.jpg"]
    }


@pytest.mark.parametrize("error", [KeyError("no such bit"), ZeroDivisionError("by zero"), RuntimeError("size 0")])
def test_an_augmentation_that_fails_is_skipped_or_named(error: Exception) -> None:
    def augment(picture: Image.Image) -> np.ndarray:
        if picture.getpixel((0, 0)) == 1:
            raise error
        return np.asarray(picture)

    images = [{**encode(Image.new("L", (4, 4), row)), "path": f"{row}.png"} for row in range(3)]
    rows = [{"image": image, "label": row} for row, image in enumerate(images)]
    with pytest.raises(ValueError, match=r"the image 1.png \(row 1\) cannot be augmented: .*Pass --skip-corrupt"):
        Rows(rows, "image", "label", augment, "L")[Key(0, 1)]  # type: ignore[arg-type]
    found = Rows(rows, "image", "label", augment, "L", skip_corrupt=True)[Key(0, 1)]  # type: ignore[arg-type]
    assert (found["labels"], found["corrupt"]) == (2, ["1.png (row 1)"])


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_a_decompression_bomb_says_how_to_allow_it(kind: str) -> None:
    image, before = encode(Image.new("L", (100, 100)), kind), Image.MAX_IMAGE_PIXELS
    with pytest.raises(OSError, match=r"more than 9998 pixels, as a decompression bomb may$"):
        read_image(image, "RGB", max_pixels=9998)
    rows = Rows([{"image": image, "label": 0}], "image", "label", np.asarray, "RGB", max_pixels=9998)  # type: ignore
    with pytest.raises(ValueError, match=r"Pass --skip-corrupt to go on without it, or if you trust it, raise --max-p"):
        rows[Key(0, 0)]
    assert read_image(image, "RGB", max_pixels=10_000).size == (100, 100)
    assert before == Image.MAX_IMAGE_PIXELS
