"""JPEGs decoded at a reduced scale, and interpolation drawn for each image."""

import io
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from alignmix_timm.points.images import read_image
from alignmix_timm.seeds import Stream, seed_cpu
from alignmix_timm.training.config import TrainConfig
from alignmix_timm.training.data.dataset import Key, Rows
from alignmix_timm.training.data.transforms import check_augmentation, data_config, train_transform

OWN = {"input_size": (3, 32, 32), "interpolation": "bilinear", "crop_pct": 0.9, "mean": [0.5] * 3, "std": [0.5] * 3}
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8))
PHOTO = NOISE.resize((400, 300), Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(3))


def encoded(picture: Image.Image, kind: str = "JPEG", **options: Any) -> dict[str, Any]:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return {"bytes": buffer.getvalue(), "path": None}


def transform(**options: Any) -> Any:
    config = TrainConfig(data="a", img_size=32, **options)
    config.check()
    return train_transform(data_config(SimpleNamespace(pretrained_cfg=OWN), config), config, normalize=False)  # type: ignore[arg-type]


def crops(image: dict[str, Any], rows: int = 30, **options: Any) -> list[torch.Tensor]:
    """Random crops of one image, with and without ``jpeg_scaling``."""
    examples = Rows([{"image": image, "label": 0}] * rows, "image", "label", transform(**options), "RGB")
    examples.defer = bool(options.get("jpeg_scaling"))
    return [examples[Key(0, row)]["pixel_values"].float() for row in range(rows)]


@pytest.mark.parametrize("options", [{}, {"train_interpolation": "random", "aa": "rand-m5"}])
def test_reduced_crops_show_the_same_in_other_pixels(options: dict[str, Any]) -> None:
    pairs = list(
        zip(crops(encoded(PHOTO), **options), crops(encoded(PHOTO), jpeg_scaling=True, **options), strict=True)
    )
    differences = [(full - reduced).abs().mean().item() for full, reduced in pairs]
    assert max(differences) < 8  # of 255; crops of other places differ by 40
    assert sum(difference > 0 for difference in differences) > 20


@pytest.mark.parametrize(
    "image",
    [encoded(PHOTO, "PNG"), encoded(PHOTO.convert("L")), encoded(PHOTO.resize((60, 60)))],
    ids=["png", "grey", "small"],
)
def test_other_images_are_cropped_as_timm_does(image: dict[str, Any]) -> None:
    for full, reduced in zip(crops(image), crops(image, jpeg_scaling=True), strict=True):
        assert torch.equal(full, reduced)


def test_turned_jpegs_are_decoded_whole() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = encoded(PHOTO, exif=exif)
    for full, reduced in zip(crops(image, 5), crops(image, 5, jpeg_scaling=True), strict=True):
        assert torch.equal(full, reduced)


def test_the_scale_leaves_the_crop_as_large_as_the_input() -> None:
    decoded = []
    for share in (1.0, 0.5, 0.02):
        picture, crop = read_image(encoded(PHOTO), "RGB", defer=True), transform(jpeg_scaling=True, scale=[share] * 2)
        seed_cpu(0, Stream.AUGMENT, 0)
        crop(picture)
        decoded.append(picture.width)
    assert decoded == [50, 100, 400]  # crops of 300, 245 and 49 pixels to 32


def test_a_broken_jpeg_is_named_as_one_that_cannot_be_read() -> None:
    broken = {"bytes": encoded(PHOTO)["bytes"][:2000], "path": "a.jpg"}
    with pytest.raises(ValueError, match=r"the image a.jpg \(row 0\) cannot be read: .*truncated"):
        crops(broken, 1, jpeg_scaling=True)


@pytest.mark.parametrize("crop", ["rrc", "pad", "resize"])
def test_random_interpolation_draws_bilinear_or_bicubic(crop: str) -> None:
    ways = {name: transform(train_interpolation=name, train_crop=crop) for name in ("random", "bilinear", "bicubic")}
    found = set()
    for row in range(20):
        images = {}
        for name, way in ways.items():
            seed_cpu(0, Stream.AUGMENT, row)
            picture = way.transforms[0].transforms[0](PHOTO)
            images[name] = np.asarray(picture).tobytes()
        found |= {name for name in ("bilinear", "bicubic") if images[name] == images["random"]}
    assert found == {"bilinear", "bicubic"}


def test_interpolations_that_there_are_not() -> None:
    with pytest.raises(ValueError, match=r"^interpolation must be among .*, got 'random'"):
        check_augmentation(TrainConfig(data="a", interpolation="random"))
    with pytest.raises(ValueError, match=r"train_interpolation must be among .*random, got 'cubic'"):
        check_augmentation(TrainConfig(data="a", train_interpolation="cubic"))
    check_augmentation(TrainConfig(data="a", train_interpolation="random", aa="rand-m9-mstd0.5-inc1"))
