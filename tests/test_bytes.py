"""Images as bytes from data worker to device: what becomes of them, and that they are what they were as floats."""

import math
import random
import re
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from style import Identity
from test_algorithm1 import autoencoder, encoder
from timm.data.random_erasing import RandomErasing
from torch import Tensor
from torch.utils.data import DataLoader

from alignmix_timm import AlignMixModel, Autoencoder, draw
from alignmix_timm.mixers import SaliencyMix, StyleMix
from alignmix_timm.mixers.saliencymix import most_salient
from alignmix_timm.params import Mode
from alignmix_timm.points.normalization import normalize, statistics_of
from alignmix_timm.seeds import Stream, _state, seed_all, seed_cpu
from alignmix_timm.training.config import TrainConfig
from alignmix_timm.training.data.dataset import Key, Rows, collate
from alignmix_timm.training.data.device import DeviceBatches
from alignmix_timm.training.data.erasing import Erasing, erase
from alignmix_timm.training.data.transforms import data_config, eval_transform, train_transform

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8))
OWN = {
    "input_size": (3, 32, 32),
    "interpolation": "bicubic",
    "crop_pct": 0.9,
    "mean": [0.4, 0.5, 0.6],
    "std": [0.2] * 3,
}
BYTES = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def numbers() -> list[float]:
    return [random.random(), np.random.rand(), torch.rand(1).item()]


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1, 2**32, 2**70 + 3, 2**130 + 9, 2**200 + 1])
def test_quick_seeds_are_those_of_numpy(seed: int) -> None:
    for key in ((3,), (3, 0), (3, 5, 12345), (3, 5, 2**32 + 7), (6, 0, 1, 2, 3), (3, 2**40, 9)):
        expected = np.random.SeedSequence(seed, spawn_key=key).generate_state(3, np.uint64)
        assert _state(seed, *key) == tuple(expected.tolist())
    seed_all(seed, Stream.AUGMENT, 2, 7)
    expected = numbers()
    seed_cpu(seed, Stream.AUGMENT, 2, 7)
    assert numbers() == expected


@pytest.mark.parametrize(
    "options",
    [
        dict(aa="rand-m9-mstd0.5-inc1", color_jitter=0.4),
        dict(in_chans=1, hflip=1.0, vflip=1.0),
        dict(train_crop="pad", train_interpolation="random", aa="augmix-m5"),
    ],
)
def test_bytes_normalised_later_are_the_floats_of_today_bit_for_bit(options: dict[str, Any]) -> None:
    config = TrainConfig(data="a", **options)
    data = data_config(SimpleNamespace(pretrained_cfg=OWN), config)  # type: ignore[arg-type]
    picture = PICTURE.convert("L") if config.in_chans == 1 else PICTURE
    pairs = [(eval_transform(data), eval_transform(data, normalize=False))]
    pairs += [(train_transform(data, config), train_transform(data, config, normalize=False))] * 5
    for row, (floats, as_bytes) in enumerate(pairs):
        seed_cpu(0, Stream.AUGMENT, row)
        expected = floats(picture)
        seed_cpu(0, Stream.AUGMENT, row)
        found = as_bytes(picture)
        assert found.dtype == torch.uint8
        assert torch.equal(normalize(found[None], data["mean"], data["std"])[0], expected)


@pytest.mark.parametrize("size", [(32, 32), (24, 48)])
def test_what_is_erased_is_drawn_as_timm_does(size: tuple[int, int]) -> None:
    timms, ours, erased = RandomErasing(0.7, mode="pixel", device="cpu"), Erasing(0.7), 0
    for row in range(40):
        expected, found = torch.zeros(3, *size), torch.zeros(1, 3, *size)
        random.seed(row)
        timms(expected)
        random.seed(row)
        erase(found, torch.tensor([ours.draw(*size)]))
        assert torch.equal(found[0] != 0, expected != 0)
        erased += bool(expected.any())
    assert 20 < erased < 36


def test_noise_follows_from_the_row_alone() -> None:
    """Not from its batch, its memory format, or what else was drawn; and it has mean 0 and standard deviation 1."""
    random.seed(0)
    drawn = torch.tensor([Erasing(1.0).draw(64, 64) for _ in range(60)])
    whole = torch.zeros(60, 3, 64, 64)
    erase(whole, drawn)
    torch.rand(7)
    half = torch.zeros(30, 3, 64, 64).to(memory_format=torch.channels_last)
    erase(half, drawn[30:])
    assert torch.equal(half, whole[30:])
    noise = whole[whole != 0]
    assert abs(noise.mean()) < 0.02
    assert abs(noise.std() - 1) < 0.02
    assert len({float(image[image != 0][0]) for image in whole}) == 60


def test_a_worker_writes_bytes_into_shared_memory_and_the_device_makes_images_of_them() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)

    class Stored(list):
        def __getitem__(self, row: Any) -> Any:
            return {"image": {"bytes": None, "path": str(row)}, "label": row % 3}

    class Bytes(Rows):
        def _picture(self, value: Any, kept: int | None) -> Image.Image:
            return Image.fromarray(pixels[int(value["path"])])

    rows = Bytes(Stored(range(12)), "image", "label", to_tensor, "RGB", seed=4)
    rows.erasing = Erasing(0.5)
    keys = [Key(0, row) for row in range(12)]
    loader = DataLoader(rows, 6, sampler=keys, num_workers=1, collate_fn=collate)
    batches = list(loader)
    for batch in batches:
        assert batch["pixel_values"].is_shared()
        assert batch["pixel_values"].dtype == torch.uint8
    data = {"mean": (0.5, 0.4, 0.3), "std": (0.1, 0.2, 0.3)}
    found = list(DeviceBatches(loader, torch.device("cpu"), data, torch.channels_last))
    assert [sorted(batch) for batch in found] == [["corrupt", "labels", "pixel_values", "rows"]] * 2
    for batch, ready in zip(batches, found, strict=True):
        expected = (batch["pixel_values"] / 255 - column(data["mean"])) / column(data["std"])
        erase(expected, batch["erased"])
        assert torch.equal(ready["pixel_values"], expected)
        assert ready["pixel_values"].is_contiguous(memory_format=torch.channels_last)
    assert any(batch["erased"].any() for batch in batches)


def to_tensor(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def column(values: Sequence[float]) -> Tensor:
    return torch.tensor(values).view(-1, 1, 1)


@pytest.mark.parametrize("given", [None, ([0.1, 0.2, 0.3], [0.5, 0.6, 0.7]), ([0.5], [0.2])])
def test_the_wrapper_takes_bytes_for_the_images_they_are(given: tuple[list[float], list[float]] | None) -> None:
    net, labels, params = timm.create_model("test_resnet", num_classes=4), torch.arange(4), draw(4, 0, 1)
    mean, std = given or (net.pretrained_cfg["mean"], net.pretrained_cfg["std"])
    model = AlignMixModel(net) if given is None else AlignMixModel(net, mean=mean, std=std)
    images = (BYTES / 255 - column(mean)) / column(std)
    expected, found = model.train()(images, labels, params), model(BYTES, labels, params)
    assert torch.equal(found.loss, expected.loss)
    assert torch.equal(model.eval()(BYTES).logits, model(images).logits)


def test_bytes_of_an_unknown_scale_are_one_sentence() -> None:
    net = timm.create_model("test_resnet", num_classes=4)
    net.pretrained_cfg = {}
    model = AlignMixModel(net, input_size=(3, 32, 32))
    for call in (lambda: model(BYTES, torch.arange(4), draw(4, 0, 1)), lambda: model.eval()(BYTES)):
        with pytest.raises(
            ValueError, match=r"bytes \(uint8\) with 3 channels need mean and standard deviation .*pass mean="
        ):
            call()


ENCODER = encoder()
TAKERS: dict[str, Callable[..., object]] = {
    "AlignMixModel": lambda **options: AlignMixModel(ENCODER, **options),
    "Autoencoder": lambda **options: Autoencoder(ENCODER, (3, 32, 32), **options),
    "SaliencyMix": SaliencyMix,
    "StyleMix": lambda **options: StyleMix(codec=Identity(), **options),
}


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ([0.5] * 3, [0.5, math.nan, 0.5]),
        ([0.5] * 3, [math.inf] * 3),
        ([0.5] * 3, [0.5, 0.0, 0.5]),
        ([0.5] * 3, [0.5, 0.5, -0.1]),
        ([math.nan, 0.5, 0.5], [0.5] * 3),
        ([0.5, -math.inf, 0.5], [0.5] * 3),
        (np.array([0.5] * 3), np.array([0.5, 0.5, math.nan])),
        (torch.tensor([0.5] * 3), torch.tensor([0.5, 0.0, 0.5])),
        ([0.5], [0.5] * 3),
        ([0.5] * 3, [0.5] * 2),
        ([], []),
        (0.5, 0.5),
        (torch.tensor(0.5), torch.tensor(0.5)),
        ([[0.5] * 3], [[0.5] * 3]),
        (["0.5"], ["0.5"]),
        ([0.5] * 3, None),
        (None, [0.5] * 3),
    ],
    ids=str,
)
@pytest.mark.parametrize("taker", TAKERS)
def test_mean_and_std_that_no_images_have_are_one_sentence(taker: str, mean: Any, std: Any) -> None:
    sentence = (
        "mean and std must be given together, each a list of one finite number for each channel, those of std > 0, got "
        f"mean={mean} and std={std}. Those of ImageNet are mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        TAKERS[taker](mean=mean, std=std)


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor, lambda values: list(torch.tensor(values))])
def test_mean_and_std_may_be_any_sequence_of_numbers(kind: Callable[[list[float]], Any]) -> None:
    mean, std = [0.25, 0.5, 0.75], [0.5, 0.25, 0.125]
    images = (BYTES / 255 - column(mean)) / column(std)
    model = Autoencoder(encoder(), (3, 32, 32), mean=kind(mean), std=kind(std), decoder_width=8)
    assert torch.equal(model.classifier.as_floats(BYTES), images)
    torch.testing.assert_close(model.rescale(images), BYTES / 127.5 - 1)
    assert torch.equal(most_salient(images, kind(mean), kind(std)), most_salient(images, mean, std))
    SaliencyMix(mean=kind(mean), std=kind(std))


def test_statistics_of_colour_are_averaged_for_grey() -> None:
    net = timm.create_model("test_resnet", num_classes=4, in_chans=1)
    averages = [(sum(net.pretrained_cfg[name]) / 3,) for name in ("mean", "std")]
    assert statistics_of(net, 1) == tuple(averages)
    assert AlignMixModel(net).eval()(BYTES[:, :1]).logits.shape == (4, 4)


@pytest.mark.parametrize("mode", ["clean", "feat"])
def test_the_autoencoder_takes_bytes(mode: Mode) -> None:
    model, params = autoencoder(), draw(4, 0, 1, modes=[mode])
    images = (BYTES / 255 - model.mean) / model.std
    losses = [model(pixels, torch.arange(4), params).loss for pixels in (images, BYTES)]
    assert torch.equal(*losses)
