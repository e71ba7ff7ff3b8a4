"""The values that the numeric options of the recipes may have."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..sinkhorn import EPSILON


class Interval(NamedTuple):
    """Finite numbers from ``low`` to ``high``; an end that is open does not belong to them."""

    low: float
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, int | float) or not math.isfinite(value):
            return False
        above = value > self.low if self.low_open else value >= self.low
        return above and (value < self.high if self.high_open else value <= self.high)

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"{'>' if self.low_open else '>='} {self.low:g}"
        return f"in {'(' if self.low_open else '['}{self.low:g}, {self.high:g}{')' if self.high_open else ']'}"


_INTERVALS = {
    Interval(1): (
        *(
            "num_classes",
            "max_train_samples",
            "max_eval_samples",
            "train_samples",
            "shuffle_buffer",
            "img_size",
            "max_pixels",
        ),
        *("embed_dim", "grid", "decoder_width", "epochs", "batch_size", "micro_batch_size", "lr_base_size"),
        *("max_pixels", "checkpoint_every", "keep_checkpoints", "eval_every", "log_every", "push_every"),
        *("image_size", "train_size", "rows"),
    ),
    Interval(0): (
        *(
            "workers",
            "cache_images",
            "seed",
            "color_jitter",
            "mix_off_epoch",
            "reconstruction_weight",
            "kl_weight",
            "lr",
            "lr_base",
        ),
        *("body_lr_scale", "weight_decay", "warmup_epochs", "warmup_lr", "min_lr"),
    ),
    Interval(0, low_open=True): (
        *("alpha", "mixup_alpha", "cutmix_alpha", "epsilon", "decay_epochs", "decay_rate", "clip_grad"),
    ),
    Interval(0, 1): ("hflip", "vflip", "reprob", "mix_prob", "bce_target_thresh", "model_ema_decay"),
    Interval(0, 1, high_open=True): ("drop", "drop_path", "smoothing", "momentum"),
    Interval(0, 1, low_open=True): ("crop_pct", "layer_decay"),
    Interval(0, 1, low_open=True, high_open=True): ("val_fraction",),
}
_HINTS = {
    "alpha": " The paper's value is 2.",
    "epsilon": f" The default is {EPSILON}; the paper's, for raw costs, 0.1.",
}
_HINTS |= dict.fromkeys(("mixup_alpha", "cutmix_alpha"), " To leave it out, see --mixers.")


def check_ranges(options: Mapping[str, Any]) -> None:
    """Raise ValueError for a number outside its range; None and other options are let through."""
    for interval, names in _INTERVALS.items():
        for name in names:
            if (value := options.get(name)) is not None and value not in interval:
                raise ValueError(f"{name} must be {interval}, got {value}.{_HINTS.get(name, '')}")


def check_lists(options: Mapping[str, Any]) -> None:
    """Raise ValueError for ranges, channel statistics or milestones of a run that cannot be.

    Args:
        options: ``scale``, ``ratio``, ``mean``, ``std``, ``in_chans`` and ``decay_milestones`` of a TrainConfig.
    """
    for name, most in (("scale", 1.0), ("ratio", math.inf)):
        value = options[name]
        if len(value) != 2 or not 0 < value[0] <= value[1] <= most or value[1] == math.inf:
            upper = f", at most {most:g}" if most < math.inf else ""
            raise ValueError(f"{name} must be two numbers > 0, the smaller one first{upper}, got {value}.")
    channels = options["in_chans"]
    for name, least in (("mean", -math.inf), ("std", 0.0)):
        value = options[name]
        if value is None:
            continue
        if len(value) not in (1, channels):
            rule = "one number" if channels == 1 else f"one number, or one for each of the {channels} channels"
            raise ValueError(f"{name} must be {rule}, got {value}.")
        if not all(math.isfinite(one) and one > least for one in value):
            raise ValueError(f"{name} must hold finite numbers{'' if least < 0 else ' > 0'}, got {value}.")
    milestones = options["decay_milestones"]
    if not milestones or milestones[0] < 1 or milestones != sorted(set(milestones)):
        raise ValueError(f"decay_milestones must be epochs >= 1 in ascending order, got {milestones}.")
