"""The transforms of a run: crops of any shape, and augmentation that never asks Pillow for what it refuses."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from timm.data import auto_augment

from alignmix_timm.seeds import Stream, seed_all
from alignmix_timm.training.config import TrainConfig
from alignmix_timm.training.data.transforms import data_config, eval_transform, train_transform

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8))
OWN = {"input_size": (3, 224, 224), "interpolation": "bilinear", "crop_pct": 0.9, "mean": [0.5] * 3, "std": [0.5] * 3}


def data(**options: Any) -> tuple[dict[str, Any], TrainConfig]:
    config = TrainConfig(data="a", **options)
    config.check()
    return data_config(SimpleNamespace(pretrained_cfg=OWN), config), config  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "aa",
    [
        *("rand-m9-mstd0.5-inc1", "rand-m0", "rand-m20-mmax20-inc1", "augmix-m10-mstd3", "v0", "v0r", "originalr"),
        *("original", "3a", "rand-m9-mstd101-tweights"),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_augmentation_never_fails(aa: str, channels: int) -> None:
    described, config = data(aa=aa, input_size=[channels, 32, 32])
    transform, picture = train_transform(described, config), PICTURE.convert("RGB" if channels == 3 else "L")
    for row in range(100):
        seed_all(0, Stream.AUGMENT, 0, row)
        assert transform(picture).shape == (channels, 32, 32)


@pytest.mark.parametrize(("bits", "kept"), [(-4, 128), (0, 128), (1, 128), (4, 240), (8, 255)])
def test_posterize_keeps_at_least_one_bit(bits: int, kept: int) -> None:
    augmentation = train_transform(*data(aa="rand-m9-inc1")).transforms[1].transforms[0]
    posterize = next(one.aug_fn for one in augmentation.ops if one.name == "PosterizeIncreasing")
    assert np.array_equal(np.asarray(posterize(PICTURE, bits)), np.asarray(PICTURE) & kept)
    assert auto_augment.NAME_TO_OP["PosterizeIncreasing"] is auto_augment.posterize  # that of others is as it was


@pytest.mark.parametrize("interpolation", ["box", "hamming", "lanczos", "nearest"])
def test_augmentation_rotates_whatever_images_are_resized_by(interpolation: str) -> None:
    transform = train_transform(*data(aa="rand-m9-n5-mstd0.5", interpolation=interpolation, img_size=32))
    for row in range(40):
        seed_all(0, Stream.AUGMENT, 0, row)
        assert transform(PICTURE).shape == (3, 32, 32)


@pytest.mark.parametrize("size", [[3, 24, 48], [1, 48, 24], [3, 32, 32]])
@pytest.mark.parametrize("crop", ["rrc", "pad", "resize"])
@pytest.mark.parametrize("mode", ["center", "squash", "border"])
def test_images_of_any_shape(size: list[int], crop: str, mode: str) -> None:
    described, config = data(input_size=size, train_crop=crop, crop_mode=mode, aa="rand-m5")
    assert described["input_size"] == tuple(size)
    picture = PICTURE.convert("RGB" if size[0] == 3 else "L")
    for transform in (train_transform(described, config), eval_transform(described)):
        assert transform(picture).shape == tuple(size)


def test_padding_is_an_eighth_of_its_side() -> None:
    """A white image comes out with black margins of at most 2 rows and 8 columns."""
    options: dict[str, Any] = dict(train_crop="pad", input_size=[3, 16, 64], mean=[0.0], std=[1.0])
    transform = train_transform(*data(**options))
    found = [transform(Image.new("RGB", (64, 16), "white"))[0] for _ in range(200)]
    rows = {int((image.amax(1) == 0).sum()) for image in found}
    columns = {int((image.amax(0) == 0).sum()) for image in found}
    assert (max(rows), max(columns)) == (2, 8)


def test_one_mean_stands_for_every_channel() -> None:
    described, config = data(mean=[0.25], std=[0.5], img_size=32, aa="rand-m9-n4", crop_mode="border")
    assert (described["mean"], described["std"]) == ((0.25,) * 3, (0.5,) * 3)
    for _ in range(20):
        assert train_transform(described, config)(PICTURE).shape == (3, 32, 32)
    assert eval_transform(described)(PICTURE).shape == (3, 32, 32)
