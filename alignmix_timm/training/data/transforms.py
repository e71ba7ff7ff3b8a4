"""The transforms of training and evaluation: timm's, by the options of a run and the configuration of its model."""

import re
from typing import Any

from timm.data import create_transform
from timm.data.transforms import str_to_interp_mode
from torch import nn
from torchvision import transforms

from ..config import TrainConfig

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")


def check_augmentation(config: TrainConfig) -> None:
    """Raise ValueError for an ``aa`` or ``interpolation`` that timm does not know."""
    if config.interpolation not in (None, *INTERPOLATIONS):
        raise ValueError(f"interpolation must be among {', '.join(INTERPOLATIONS)}, got {config.interpolation!r}.")
    if config.aa is None:
        return
    # timm passes over a section without a number
    ignored = [part for part in config.aa.split("-")[1:] if not re.match(r"t|[a-z]+\d", part)]
    try:
        if ignored:
            raise ValueError(f"{ignored[0]!r} has no number")
        create_transform(224, is_training=True, auto_augment=config.aa)
    except (AssertionError, KeyError, ValueError) as error:
        raise ValueError(
            "aa must be one of timm's augmentations, such as rand-m7-mstd0.5-inc1, augmix-m3-w3, 3a, original or v0, "
            f"got {config.aa!r}: {error}."
        ) from error


def data_config(net: nn.Module, config: TrainConfig) -> dict[str, Any]:
    """Input size, mean, std, interpolation and crop: the options, else the model's own configuration."""
    own: dict[str, Any] = dict(net.pretrained_cfg)  # type: ignore[arg-type]
    size = (config.img_size,) * 2 if config.img_size else tuple(own["input_size"][1:])
    grey = config.in_chans == 1 and len(own["mean"]) == 3
    mean, std = ((sum(own[name]) / 3,) if grey else tuple(own[name]) for name in ("mean", "std"))
    return {
        "input_size": (config.in_chans, *size),
        "interpolation": config.interpolation or own["interpolation"],
        "mean": tuple(config.mean or mean),
        "std": tuple(config.std or std),
        "crop_pct": config.crop_pct or own["crop_pct"],
        "crop_mode": config.crop_mode or own.get("crop_mode") or "center",
    }


def train_transform(data: dict[str, Any], config: TrainConfig) -> Any:
    """Crop and flip, timm's automatic augmentation, normalise, erase."""
    first, second, final = create_transform(
        data["input_size"],
        is_training=True,
        scale=(config.scale[0], config.scale[1]),
        ratio=(config.ratio[0], config.ratio[1]),
        hflip=config.hflip,
        vflip=config.vflip,
        color_jitter=config.color_jitter,
        auto_augment=config.aa,
        interpolation=data["interpolation"],
        mean=data["mean"],
        std=data["std"],
        re_prob=config.reprob,
        re_mode="pixel",
        separate=True,
    )
    if config.train_crop != "rrc":
        size, interpolation = data["input_size"][1:], str_to_interp_mode(data["interpolation"])
        if config.train_crop == "pad":
            crop = [transforms.Resize(size, interpolation), transforms.RandomCrop(size, padding=size[0] // 8)]
        else:
            larger = [round(side * 8 / 7) for side in size]
            crop = [transforms.Resize(larger, interpolation), transforms.RandomCrop(size)]
        flips = [transforms.RandomHorizontalFlip(config.hflip), transforms.RandomVerticalFlip(config.vflip)]
        first = transforms.Compose([*crop, *flips])
    return transforms.Compose([first, second, final])


def eval_transform(data: dict[str, Any]) -> Any:
    """Resize, crop at the centre, normalise."""
    return create_transform(
        data["input_size"],
        interpolation=data["interpolation"],
        mean=data["mean"],
        std=data["std"],
        crop_pct=data["crop_pct"],
        crop_mode=data["crop_mode"],
    )
