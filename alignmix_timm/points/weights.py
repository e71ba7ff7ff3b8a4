"""A timm model with trained weights, to look at and to measure."""

import contextlib
from pathlib import Path
from typing import Any

import timm
from timm.models import load_state_dict
from torch import Tensor, nn

from ..nearest import nearest
from . import ImageSize, built_for
from .probe import trace


def trained_model(name: str, weights: Path | None = None, image_size: int | None = None) -> Any:
    """A timm model in eval mode.

    Args:
        name: Of timm's models, or ``hf-hub:USER/NAME`` or ``local-dir:FOLDER``.
        weights: File of its weights, with any number of classes; None is the pretrained weights that timm knows.
        image_size: Of a model that is built for one size.

    Raises:
        ValueError: there is no such model, or it has no such weights; says why.
    """
    if ":" not in name and not timm.is_model(name):
        raise ValueError(f"timm has no model {name!r}.{nearest(name, timm.list_models())} See timm.list_models().")
    if weights is not None and not weights.is_file():
        raise ValueError(
            f"weights must be a file, got {weights}, which {'is none' if weights.exists() else 'does not exist'}."
        )
    known = None if ":" in name else timm.models.get_pretrained_cfg(name)
    sized: dict[str, Any] = {"img_size": image_size} if image_size else {}
    try:
        options = {} if weights is None else _of_file(weights, known)
        fixed = known is not None and known.fixed_input_size
        net: Any = timm.create_model(name, pretrained=True, **options, **(sized if fixed else {}))
        if known is None and sized and net.pretrained_cfg.get("fixed_input_size"):
            net = timm.create_model(name, pretrained=True, **options, **sized)
        if weights is not None:
            del net.pretrained_cfg["file"]  # which says nothing to others
        return net.eval()
    except Exception as error:  # timm, the Hub's client and torch raise many kinds
        reason = str(error).strip().rstrip(".")
        where = "Pass --weights FILE." if weights is None else "The file must hold weights of this model."
        raise ValueError(f"model {name!r} cannot be loaded: {reason}. {where}") from error


def _of_file(weights: Path, known: Any) -> dict[str, Any]:
    """Options with which timm loads the weights of a file, and fits them to the size of the images."""
    state = load_state_dict(str(weights), weights_only=True)
    shapes = _shapes(state, known.classifier, known.first_conv) if known else {}
    source: dict[str, Any] = {"file": str(weights), "source": "", "custom_load": False, "label_offset": 0}
    if "num_classes" in shapes:
        source["num_classes"] = shapes["num_classes"]
    if "in_chans" in shapes:
        source["input_size"] = (shapes["in_chans"], *known.input_size[1:])
    return {**shapes, "pretrained_cfg_overlay": source}


def _shapes(state: dict[str, Tensor], classifier: Any, first_conv: Any) -> dict[str, int]:
    """Numbers of classes and of channels, from the weights of the layers at both ends."""
    found = {}
    for option, layer, axis in (("num_classes", classifier, 0), ("in_chans", first_conv, 1)):
        layer = layer[0] if isinstance(layer, tuple | list) else layer
        if f"{layer}.weight" in state:
            found[option] = state[f"{layer}.weight"].shape[axis]
    if found.get("in_chans", 0) % (3 * 4) == 0:  # RGB, of which patches are rearranged into channels
        found.pop("in_chans", None)
    return found


def size_of_images(net: nn.Module, image_size: int | None) -> ImageSize:
    """The size (C, H, W) of the model's images: that given, else the one it was built for.

    Raises:
        ValueError: the model takes neither RGB nor grey images.
    """
    built = built_for(net)
    if (channels := _channels(net, built)) not in (1, 3):
        raise ValueError(
            f"model must take RGB or grey images, got {type(net).__name__}, which takes images of {channels} channels."
        )
    return (channels, image_size, image_size) if image_size else built


def _channels(net: nn.Module, built: ImageSize) -> int:
    """Those of its first convolution, if the model runs on images of as many."""
    first: Any = next((module for module in net.modules() if isinstance(module, nn.Conv2d)), None)
    if first is not None and first.in_channels not in (1, 3):  # may be of patches rearranged into channels
        with contextlib.suppress(ValueError):
            trace(net, (first.in_channels, *built[1:]))
            return int(first.in_channels)
    return built[0]
