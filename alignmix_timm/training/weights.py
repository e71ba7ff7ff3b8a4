"""The weights that a model begins with: from the Hub, from a folder that was saved for timm, or from a file."""

from pathlib import Path
from typing import Any

import timm
from timm.models import load_state_dict

_CUSTOM = (".npz", ".npy")  # of JAX, which some networks of timm read by themselves


def check_weights(checkpoint: str) -> None:
    """Raise ValueError if there is no model on this machine where ``initial_checkpoint`` says so."""
    path = Path(checkpoint)
    if checkpoint.startswith("hf-hub:") or path.is_file():
        return
    if not checkpoint or not path.is_dir():
        hub = f" On the Hub it is hf-hub:{checkpoint}." if checkpoint.count("/") == 1 and not path.suffix else ""
        raise ValueError(
            f"initial_checkpoint must be hf-hub:USER/NAME, or an existing folder or file, got {checkpoint!r}, which "
            f"does not exist.{hub}"
        )
    if not (path / "config.json").is_file():
        models = (path / "model", path.resolve().parent.parent / "model")  # of a run, and of that of a checkpoint
        found = next((model for model in models if (model / "config.json").is_file()), "RUN/model")
        raise ValueError(
            f"initial_checkpoint must be a folder saved for timm, got {checkpoint!r}, which has no config.json. Pass "
            f"{found}."
        )


def with_weights(checkpoint: str, name: str, options: dict[str, Any]) -> Any:
    """A timm model that begins with given weights; a classifier of another number of classes begins anew.

    Args:
        checkpoint: ``hf-hub:USER/NAME``, a folder, or a file.
        name: Of the architecture, for a file; the Hub and folders have their own.
        options: Of ``timm.create_model``.
    """
    path = Path(checkpoint)
    if path.is_file():
        return _from_file(path, name, options)
    source = f"local-dir:{checkpoint}" if path.is_dir() else checkpoint
    return timm.create_model(source, **options | {"pretrained": True})


def _from_file(path: Path, name: str, options: dict[str, Any]) -> Any:
    """Load all weights with the classifier that they have, as strictly as timm does, and take over those that fit."""
    net: Any = timm.create_model(name, **options | {"pretrained": False})
    overlay = {
        **{"file": str(path), "source": "", "custom_load": path.suffix in _CUSTOM, "label_offset": 0},
        **{"num_classes": options["num_classes"] if path.suffix in _CUSTOM else _classes(path, net)},
    }
    asked = {"pretrained": True, "num_classes": overlay["num_classes"], "pretrained_cfg_overlay": overlay}
    kept, own = timm.create_model(name, **options | asked).state_dict(), net.state_dict()
    net.load_state_dict({key: value for key, value in kept.items() if value.shape == own[key].shape}, strict=False)
    return net


def _classes(path: Path, net: Any) -> int:
    """Classes of the classifier in a file of weights; 0 if there is none."""
    weights = load_state_dict(str(path))
    names = net.pretrained_cfg.get("classifier") or ()  # several, for a network with a head of distillation
    for name in (names,) if isinstance(names, str) else names:
        if (weight := weights.get(f"{name}.weight")) is not None:
            return len(weight)
    return 0
