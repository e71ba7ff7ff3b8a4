"""What the launcher needs of timm, checked by name before anything is replaced."""

import importlib
import inspect
from typing import Any

import timm

from .messages import stop

_NAMES = (
    "timm.create_model",
    "timm.models.create_model",
    "timm.models.resume_checkpoint",
    "timm.utils.init_distributed_device",
    "timm.data.Mixup",
    "timm.data.FastCollateMixup",
    "timm.data.mixup.Mixup",
    "timm.data.mixup.FastCollateMixup",
    "timm.data.loader.fast_collate",
    "timm.data.loader.PrefetchLoader",
)
_SETTINGS = ("mix_prob", "switch_prob", "mixup_alpha", "cutmix_alpha", "label_smoothing", "num_classes", "mode")


def check_timm() -> None:
    """Exit with status 2 if this timm lacks something that the launcher replaces or reads; name it."""
    for name in _NAMES:
        _need(_find(name) is not None, name)
    collate, mixup = _find("timm.data.FastCollateMixup"), _find("timm.data.Mixup")
    _need(issubclass(collate, mixup), "timm.data.FastCollateMixup as a kind of timm.data.Mixup")
    settings = mixup()
    for name in (*_SETTINGS, "mixup_enabled"):
        _need(hasattr(settings, name), f"timm.data.Mixup().{name}")
    batches = _find("timm.data.loader.PrefetchLoader").__iter__
    _need(inspect.isgeneratorfunction(batches), "timm.data.loader.PrefetchLoader.__iter__ as a generator")


def _find(name: str) -> Any:
    owner, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(owner), attribute, None)
    except ImportError:
        return None


def _need(found: bool, name: str) -> None:
    if not found:
        stop(
            f"timm {timm.__version__} has no {name}, which --mixup alignmix depends on. Use a version of timm that has "
            "it, or write AlignMix into the training loop: see README.md.",
            2,
        )
