"""The stages of a timm model, by number."""

from typing import Any

from torch import nn


def stage_module(model: nn.Module, number: int) -> str:
    """Name of the module that ends a stage, by timm's ``feature_info``; 1 is the first stage after the stem.

    Raises:
        ValueError: the model does not list its stages, or has no such stage; names those it has.
    """
    found = _stages(model)
    if not 1 <= number <= len(found):
        has = f"has {len(found)} stages, {', '.join(found)}" if found else "does not list its stages"
        raise ValueError(
            f"layer must be the number of a stage, got {number}: {type(model).__name__} {has}. Name a module instead."
        )
    return found[number - 1]


def _stages(model: nn.Module) -> list[str]:
    """Modules in ``feature_info`` but for the stem, which is named so or is a layer without children."""
    info: Any = getattr(model, "feature_info", None) or []
    names = [entry.get("module", "") for entry in info]
    modules = dict(model.named_modules())
    return [
        name for name in names if name in modules and "stem" not in name and any(True for _ in modules[name].children())
    ]
