"""Options of train.py that AlignMix cannot go with, refused before any work, with what to do instead."""

import argparse
from collections.abc import Callable
from typing import Any

from ..mixers import Mixer
from .messages import stop

_Rule = tuple[str, Callable[[Any], Any], str]

_RULES: tuple[_Rule, ...] = (
    ("naflex_loader", bool, "NaFlex batches hold images of different sizes. Leave it out, to train at one image size"),
    ("torchscript", bool, "a scripted model has no hooks. Use --torchcompile"),
    ("jsd_loss", bool, "it compares augmentations of unmixed images. Leave it out, with --aug-splits"),
    ("aug_splits", bool, "a split would be mixed with the others. Set it to 0"),
    ("split_bn", bool, "mixed batches have no splits. Leave it out, or use --sync-bn"),
    ("mixup_mode", lambda mode: mode != "batch", "Set it to batch, and choose --alignmix-lam example or batch"),
)


def refuse(args: argparse.Namespace, mixer: Mixer) -> None:
    """Exit if the script was given an option that cannot be combined with the ``--mixup`` of this mixer."""
    for name, refused, reason in _RULES:
        value = getattr(args, name, None)
        if value is not None and refused(value):
            flag = "--" + name.replace("_", "-")
            given = flag if value is True else f"{flag} {value}"
            stop(f"--mixup {mixer.name} cannot be combined with {given}: {reason}.", 2)
    teacher = getattr(args, "kd_model_name", None)
    if teacher and mixer.mixes_inside:
        stop(
            f"--mixup {mixer.name} cannot be combined with --kd-model-name {teacher}, but for --mixup alignmix "
            "--alignmix-modes input, and mixers of images: the teacher would see unmixed images.",
            2,
        )
