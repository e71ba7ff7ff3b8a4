"""Options of train.py that AlignMix cannot go with, refused before any work, with what to do instead."""

import argparse
from collections.abc import Callable
from typing import Any

from .messages import stop
from .options import Options

_Rule = tuple[str, Callable[[Any], Any], str]

_RULES: tuple[_Rule, ...] = (
    ("naflex_loader", bool, "NaFlex batches hold images of different sizes. Leave it out, to train at one image size"),
    ("torchscript", bool, "a scripted model has no hooks. Use --torchcompile"),
    ("jsd_loss", bool, "it compares augmentations of unmixed images. Leave it out, with --aug-splits"),
    ("aug_splits", bool, "a split would be mixed with the others. Set it to 0"),
    ("split_bn", bool, "mixed batches have no splits. Leave it out, or use --sync-bn"),
    ("mixup_mode", lambda mode: mode != "batch", "Set it to batch, and choose --alignmix-lam example or batch"),
)


def refuse(args: argparse.Namespace, options: Options) -> None:
    """Exit if the script was given an option that cannot be combined with ``--mixup alignmix``."""
    for name, refused, reason in _RULES:
        value = getattr(args, name, None)
        if value is not None and refused(value):
            flag = "--" + name.replace("_", "-")
            given = flag if value is True else f"{flag} {value}"
            stop(f"--mixup alignmix cannot be combined with {given}: {reason}.", 2)
    teacher = getattr(args, "kd_model_name", None)
    if teacher and set(options.modes) != {"input"}:
        stop(
            f"--mixup alignmix cannot be combined with --kd-model-name {teacher} in modes {' '.join(options.modes)}: "
            "the teacher would see unmixed images. Set --alignmix-modes input, or leave out the teacher.",
            2,
        )
