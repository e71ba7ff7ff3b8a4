"""The stages of a timm model, by number."""

from typing import Any

from torch import nn

_STEM_STRIDE = 4  # the largest in timm


def stage_module(model: nn.Module, number: int) -> str:
    """Name of the module that ends a stage, by timm's ``feature_info``; 1 is the first stage after the stem.

    In a ViT each block is a stage. The stages of an :class:`alignmix_timm.Encoder` are those of its backbone.

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
    """Modules in ``feature_info``, without the stem before them; none if one is missing, or less than a stage."""
    modules = dict(model.named_modules())
    strides = _feature_modules(modules)
    names = list(strides)
    while names and names[0] in modules and strides[names[0]] <= _STEM_STRIDE and not _is_stage(names[0], modules):
        del names[0]
    if len(names) > 1 and strides[names[-1]] == strides[names[-2]] and not _is_stage(names[-1], modules):
        del names[-1]  # a norm behind the last stage
    # A norm or convolution may stand for the last stage, whose end it follows.
    return names if all(_is_stage(name, modules) for name in names[:-1]) else []


def _feature_modules(modules: dict[str, nn.Module]) -> dict[str, int]:
    """Names in the ``feature_info`` of the model, or of the first part that has one, with their strides."""
    for holder, module in modules.items():
        info: Any = getattr(module, "feature_info", None)
        if info:
            prefix = f"{holder}." if holder else ""
            return {f"{prefix}{entry['module']}": entry["reduction"] for entry in info}
    return {}


def _is_stage(name: str, modules: dict[str, nn.Module]) -> bool:
    """Whether a module stands in a list of stages or blocks, or holds several convolutions outside the stem."""
    *above, last = name.split(".")
    if name not in modules or any("stem" in part for part in (*above, last)):
        return False
    weights = sum(parameter.ndim > 1 for parameter in modules[name].parameters())
    return weights > 1 or (last.isdigit() and above[-1:] in (["stages"], ["blocks"]))
