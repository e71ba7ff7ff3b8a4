"""The transforms of training and evaluation: timm's, by the options of a run and the configuration of its model."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from PIL import Image
from PIL.Image import Resampling
from timm.data import auto_augment, create_transform
from timm.data.transforms import str_to_interp_mode
from timm.layers import to_2tuple
from torch import Tensor, nn
from torchvision import transforms

from ...seeds import Stream, seed_cpu
from ..config import TrainConfig
from .crops import ReducingCrop

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
_ROTATING = (Resampling.NEAREST, Resampling.BILINEAR, Resampling.BICUBIC)
_TRIED, _TRIES = 32, 16  # side of the image on which an augmentation is tried, and how often


def check_augmentation(config: TrainConfig) -> None:
    """Raise ValueError for an ``aa`` or interpolation that timm does not know, or that fails on a plain image."""
    for name, allowed in (("interpolation", INTERPOLATIONS), ("train_interpolation", (*INTERPOLATIONS, "random"))):
        if (value := getattr(config, name)) not in (None, *allowed):
            raise ValueError(f"{name} must be among {', '.join(allowed)}, got {value!r}.")
    if config.aa is None:
        return
    # timm passes over a section without a number
    ignored = [part for part in config.aa.split("-")[1:] if not re.match(r"t|[a-z]+\d", part)]
    try:
        if ignored:
            raise ValueError(f"{ignored[0]!r} has no number")
        _try_augmentation(config)
    except Exception as error:  # timm's parser and Pillow raise many kinds
        raise ValueError(
            "aa must be one of timm's augmentations, such as rand-m7-mstd0.5-inc1, augmix-m3-w3, 3a, original or v0, "
            f"got {config.aa!r}: {error}."
        ) from error


def _try_augmentation(config: TrainConfig) -> None:
    channels, size = config.in_chans, (_TRIED, _TRIED)
    data = {"input_size": (channels, *size), "interpolation": config.interpolation or "bilinear"}
    transform = train_transform({**data, "mean": (0.5,) * channels, "std": (0.5,) * channels}, config)
    seed_cpu(config.seed, Stream.AUGMENT)
    for _ in range(_TRIES):
        transform(Image.new("RGB" if channels == 3 else "L", size))


def data_config(net: nn.Module, config: TrainConfig) -> dict[str, Any]:
    """Input size, mean, std, interpolation and crop: the options, else the model's own configuration."""
    own: dict[str, Any] = dict(net.pretrained_cfg)  # type: ignore[arg-type]
    size = to_2tuple(config.image_size or own["input_size"][1:])
    grey = config.in_chans == 1 and len(own["mean"]) == 3
    mean, std = ((sum(own[name]) / 3,) if grey else tuple(own[name]) for name in ("mean", "std"))
    return {
        "input_size": (config.in_chans, *size),
        "interpolation": config.interpolation or own["interpolation"],
        "mean": _for_each(config.in_chans, config.mean or mean),
        "std": _for_each(config.in_chans, config.std or std),
        "crop_pct": config.crop_pct or own["crop_pct"],
        "crop_mode": config.crop_mode or own.get("crop_mode") or "center",
    }


def _for_each(channels: int, values: Sequence[float]) -> tuple[float, ...]:
    return tuple(values) * channels if len(values) == 1 else tuple(values)


def train_transform(data: dict[str, Any], config: TrainConfig, normalize: bool = True) -> Any:
    """Crop and flip, timm's automatic augmentation, normalise, erase.

    Without ``normalize`` to bytes [C, H, W]: what is left can then be done for a batch, on the device.
    """
    interpolation = config.train_interpolation or data["interpolation"]
    jitter: Any = config.color_jitter or None  # 0 would draw numbers to change nothing
    first, second, final = create_transform(
        data["input_size"],
        is_training=True,
        scale=(config.scale[0], config.scale[1]),
        ratio=(config.ratio[0], config.ratio[1]),
        hflip=config.hflip,
        vflip=config.vflip,
        color_jitter=jitter,
        auto_augment=config.aa,
        interpolation=interpolation,
        mean=data["mean"],
        std=data["std"],
        re_prob=config.reprob,
        re_mode="pixel",
        separate=True,
    )
    if config.train_crop != "rrc":
        flips = [transforms.RandomHorizontalFlip(config.hflip), transforms.RandomVerticalFlip(config.vflip)]
        first = transforms.Compose([*_plain_crop(data["input_size"][1:], config.train_crop, interpolation), *flips])
    elif config.jpeg_scaling:
        crop = ReducingCrop(data["input_size"][1:], config.scale, config.ratio, interpolation)
        first = transforms.Compose([crop, *first.transforms[1:]])
    for operation in _operations(second):
        _suit_pillow(operation)
    return transforms.Compose([first, second, final if normalize else to_bytes])


def _plain_crop(size: tuple[int, int], kind: str, interpolation: str) -> list[Any]:
    """Resize, and crop at random: the image padded by an eighth, or 8/7 of the size."""
    larger = size if kind == "pad" else [round(side * 8 / 7) for side in size]
    drawn = ("bilinear", "bicubic") if interpolation == "random" else (interpolation,)
    resizes = [transforms.Resize(larger, str_to_interp_mode(name)) for name in drawn]
    margins = (size[1] // 8, size[0] // 8) if kind == "pad" else None  # at the sides, and above and below
    resize = transforms.RandomChoice(resizes) if len(resizes) > 1 else resizes[0]
    return [resize, transforms.RandomCrop(size, padding=margins)]


def to_bytes(picture: Image.Image) -> Tensor:
    """The pixels of an image, [C, H, W] uint8: Pillow takes the channels apart faster than torch."""
    channels = bytearray(b"".join(picture.tobytes("raw", name) for name in picture.getbands()))
    return torch.frombuffer(channels, dtype=torch.uint8).view(-1, picture.height, picture.width)


def _operations(augmentation: transforms.Compose) -> Iterator[auto_augment.AugmentOp]:
    """Those that timm's automatic augmentations draw from."""
    for one in augmentation.transforms:
        drawn = [*getattr(one, "ops", []), *(part for policy in getattr(one, "policy", []) for part in policy)]
        yield from (operation for operation in drawn if isinstance(operation, auto_augment.AugmentOp))


def _suit_pillow(operation: auto_augment.AugmentOp) -> None:
    """Avoid what Pillow refuses: less than one bit (from version 13 on), and to rotate by a filter made to resize."""
    if operation.aug_fn is auto_augment.posterize:
        operation.aug_fn = _posterize
    drawn = isinstance(operation.kwargs["resample"], tuple)  # bilinear or bicubic
    if not drawn and operation.kwargs["resample"] not in _ROTATING:
        operation.kwargs["resample"] = Resampling.BICUBIC


def _posterize(picture: Image.Image, bits: int, **options: Any) -> Image.Image:
    """timm's, with one bit where its policies come down to none."""
    return auto_augment.posterize(picture, max(bits, 1), **options)


def eval_transform(data: dict[str, Any], normalize: bool = True) -> Any:
    """Resize, crop at the centre, normalise; without ``normalize`` to bytes [C, H, W]."""
    whole = create_transform(
        data["input_size"],
        interpolation=data["interpolation"],
        mean=data["mean"],
        std=data["std"],
        crop_pct=data["crop_pct"],
        crop_mode=data["crop_mode"],
        use_prefetcher=not normalize,  # then bytes come last
    )
    return whole if normalize else transforms.Compose([*whole.transforms[:-1], to_bytes])
