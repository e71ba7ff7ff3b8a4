"""A timm model with trained weights, to look at and to measure."""

from pathlib import Path
from typing import Any

import timm
from timm.models import load_state_dict
from torch import Tensor, nn

from ..nearest import nearest
from . import ImageSize, built_for


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
    options: dict[str, Any] = {"img_size": image_size} if image_size and known and known.fixed_input_size else {}
    try:
        if weights is None:
            return timm.create_model(name, pretrained=True, **options).eval()
        state = load_state_dict(str(weights), weights_only=True)
        options |= _shapes(state, known.classifier if known else None, known.first_conv if known else None)
        net = timm.create_model(name, **options)
        net.load_state_dict(state)
        return net.eval()
    except Exception as error:  # timm, the Hub's client and torch raise many kinds
        reason = str(error).strip().rstrip(".")
        where = "Pass --weights FILE." if weights is None else "The file must hold weights of this model."
        raise ValueError(f"model {name!r} cannot be loaded: {reason}. {where}") from error


def _shapes(state: dict[str, Tensor], classifier: Any, first_conv: Any) -> dict[str, int]:
    """Numbers of classes and of channels, from the weights of the layers at both ends."""
    found = {}
    for option, layer, axis in (("num_classes", classifier, 0), ("in_chans", first_conv, 1)):
        layer = layer[0] if isinstance(layer, tuple | list) else layer
        if f"{layer}.weight" in state:
            found[option] = state[f"{layer}.weight"].shape[axis]
    return found


def size_of_images(net: nn.Module, image_size: int | None) -> ImageSize:
    """The size (C, H, W) of the model's images: that given, else the one it was built for."""
    channels, height, width = built_for(net)
    return (channels, image_size, image_size) if image_size else (channels, height, width)
