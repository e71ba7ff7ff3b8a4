"""Hook a timm model, and remove the hooks again."""

import warnings

from torch import nn

from .hooks import AttachOptions, ImageSize, MixingHooks
from .points.effect import NO_EFFECT, alignment_effect
from .sinkhorn import CostScale, check_options


def attach(
    model: nn.Module,
    *,
    root: nn.Module | None = None,
    feature_module: str | int | None = None,
    input_size: ImageSize | None = None,
    epsilon: float = 0.02,
    num_iters: int = 20,
    cost_scale: CostScale = "mean",
    align_size: int | None = None,
    max_positions: int = 196,
    aligned: bool = True,
    align_embedding: bool = False,
) -> MixingHooks:
    """Hook a timm model so that it can mix features and embeddings.

    Attach before the model is compiled and called: hooks that come later are not seen. A compiled model does not notice
    a second forward pass for one ``arm``, and mixes it alike. With activation checkpointing, run backward before the
    next ``arm``.

    Args:
        model: Any timm classifier; it keeps its class, state_dict and eval output.
        root: Module whose training flag decides whether to mix; default ``model``. Parts in eval mode still mix.
        feature_module: Where to mix features, by name or index, instead of the automatic choice.
        input_size: (C, H, W) of the images, default the size the model was built for. Batches of another size are
            mixed at the point for their size.
        epsilon, num_iters, cost_scale: See :func:`alignmix_timm.sinkhorn.assign`.
        align_size: Align at a coarser resolution, of at most this many blocks along each side; default the map's own.
        max_positions: Maps of more positions are aligned in as many blocks at most.
        aligned: False mixes features position by position, for comparison (manifold mixup).
        align_embedding: Align the embedding as well, where it is a tensor: see :class:`alignmix_timm.Encoder`.

    Returns:
        The hooks: ``arm`` them before each forward pass; ``detach`` removes them.

    Raises:
        ValueError: the model has no usable mixing point, is compiled, or has hooks already; an option is outside its
            range.
    """
    check_options(epsilon, num_iters, cost_scale)
    if hasattr(model, "_orig_mod"):
        raise ValueError("the model is compiled already: attach AlignMix to the network first, then compile it.")
    if _hooks_on(model):
        raise ValueError(
            "the model has AlignMix attached already, or is a copy of one that had: call alignmix_timm.detach(model)."
        )
    options: AttachOptions = {
        "feature_module": feature_module,
        "input_size": input_size,
        "epsilon": epsilon,
        "num_iters": num_iters,
        "cost_scale": cost_scale,
        "align_size": align_size,
        "max_positions": max_positions,
        "aligned": aligned,
        "align_embedding": align_embedding,
    }
    hooks = MixingHooks(model, model if root is None else root, options)
    if feature_module is not None and aligned:
        try:
            effect = alignment_effect(model, hooks.point, epsilon, cost_scale, align_size, max_positions)
            if effect < NO_EFFECT:
                warnings.warn(
                    f"alignment has no effect at {feature_module!r}: logits of aligned and unaligned mixing differ by "
                    f"{effect:.1e} of their size. Choose a module that a spatial operation still follows.",
                    stacklevel=2,
                )
        except BaseException:
            hooks.detach()
            raise
    return hooks


def detach(model: nn.Module) -> None:
    """Remove every trace of AlignMix from a model, or from a copy of one that was hooked."""
    for hooks in _hooks_on(model):
        hooks.detach()


def _hooks_on(model: nn.Module) -> list[MixingHooks]:
    owners = [getattr(hook, "__self__", None) for module in model.modules() for hook in module._forward_hooks.values()]
    return [owner for owner in owners if isinstance(owner, MixingHooks)]
