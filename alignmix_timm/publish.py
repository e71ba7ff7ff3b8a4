"""Weights that plain timm loads."""

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models._hub import save_for_hf  # not public in the oldest supported timm
from torch import nn

from .attaching import detach


def save_for_timm(
    net: nn.Module,
    folder: str | Path,
    label_names: list[str],
    data: dict[str, Any],
    model_args: dict[str, Any] | None = None,
) -> None:
    """Write ``config.json`` and ``model.safetensors``, as on the Hub.

    ``timm.create_model("local-dir:FOLDER", pretrained=True)`` restores the model with timm 1.0.26 or later.

    Args:
        net: A timm model, in any precision and memory format; it is copied, and stays as it is.
        folder: Replaced as a whole.
        label_names: Names of the classes.
        data: Input size, mean, std, interpolation and crop of the evaluation.
        model_args: Arguments of ``timm.create_model`` that the architecture needs, such as ``img_size``.
    """
    copied: Any = copy.deepcopy(net).cpu().float().to(memory_format=torch.contiguous_format)
    detach(copied)
    for name in ("input_size", "mean", "std"):
        data = {**data, name: tuple(data[name])}
    copied.pretrained_cfg = {**copied.pretrained_cfg, **data, "num_classes": len(label_names)}
    model_config: dict[str, Any] = {"label_names": label_names, "model_args": model_args or {}}
    partial = Path(folder).with_name(f".{Path(folder).name}")
    shutil.rmtree(partial, ignore_errors=True)
    save_for_hf(copied, str(partial), model_config=model_config, safe_serialization=True)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def load_for_timm(folder: str | Path) -> Any:
    """The model that :func:`save_for_timm` wrote, with any supported timm, by the arguments in its configuration."""
    described = json.loads((Path(folder) / "config.json").read_text())
    channels = described["pretrained_cfg"]["input_size"][0]
    args = {"num_classes": described["num_classes"], "in_chans": channels, **described.get("model_args", {})}
    weights = str(Path(folder) / "model.safetensors")
    return timm.create_model(described["architecture"], checkpoint_path=weights, **args)
