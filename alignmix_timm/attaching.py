"""Hook a timm model, and remove the hooks again."""

import warnings
from collections.abc import Sequence
from typing import Any

from torch import nn
from typing_extensions import Unpack

from .alignment import Alignment, AlignmentOptions
from .hooks import MixingHooks
from .points import ImageSize
from .points.effect import NO_EFFECT, alignment_effect


class AttachOptions(AlignmentOptions, total=False):
    """The keyword options of :func:`alignmix_timm.attach`, where a class takes them to pass them on."""

    feature_module: str | int | None
    input_size: ImageSize | None
    classifier: str | Sequence[str] | None


def attach(
    model: nn.Module,
    *,
    root: nn.Module | None = None,
    feature_module: str | int | None = None,
    input_size: ImageSize | None = None,
    layers: Sequence[str | int | None] = (None,),
    classifier: str | Sequence[str] | None = None,
    **options: Unpack[AlignmentOptions],
) -> MixingHooks:
    """Hook a timm model so that it can mix features and embeddings.

    Attach before the model is compiled and called: hooks that come later are not seen. A compiled model does not notice
    a second forward pass for one ``arm``, and mixes it alike. It has a graph for evaluation, for batches of images
    alone, for the embedding, for the mixing point, and for each layer, and twice as many if batches differ in size: of
    more than eight, raise ``torch._dynamo.config.recompile_limit``. With activation checkpointing,
    each forward pass is recomputed with its own parameters, if backward runs within 64 of them, and before images of
    another size move the mixing point.

    Args:
        model: Any timm classifier, or another that ``classifier`` describes; it keeps its class, state_dict and eval
            output.
        root: Module whose training flag decides whether to mix; default ``model``. Parts in eval mode still mix; a
            ``model`` in training mode under a root in eval mode, while gradients are recorded, is an error.
        feature_module: Where to mix features, by name or index, instead of the automatic choice.
        input_size: (C, H, W) of the images, default the size the model was built for. Batches of another size are
            mixed at the point for their size.
        layers: Where a mixer mixes features: see :attr:`alignmix_timm.mixers.Mixer.feature_layers`. Default: the mixing
            point. A mixer of images has none, and takes models without a mixing point.
        classifier: Name of the module that makes the logits, or several, where the model has no ``get_classifier()``:
            ``"fc"`` of torchvision's ResNets, ``"classifier"`` of transformers' ViT.
        **options: epsilon, num_iters, cost_scale, align_size, max_positions, assignment, align_embedding: see
            :class:`alignmix_timm.Alignment`.

    Returns:
        The hooks: ``arm`` them before each forward pass; ``detach`` removes them.

    Raises:
        ValueError: the model has no usable mixing point, is compiled, or has hooks already; an option is outside its
            range.
    """
    alignment = Alignment(**options)
    if hasattr(model, "_orig_mod"):
        raise ValueError("the model is compiled already: attach AlignMix to the network first, then compile it.")
    if _hooks_on(model):
        raise ValueError(
            "the model has AlignMix attached already, or is a copy of one that had: call alignmix_timm.detach(model)."
        )
    hooks = MixingHooks(
        model, model if root is None else root, alignment, feature_module, input_size, layers, classifier
    )
    if feature_module is not None and hooks.point is not None and alignment.assignment == "transport":
        try:
            effect = alignment_effect(model, hooks.point, alignment)
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
    owners = [_owner(hook) for module in model.modules() for hook in module._forward_hooks.values()]
    return list({id(owner): owner for owner in owners if isinstance(owner, MixingHooks)}.values())


def _owner(hook: Any) -> Any:
    """The object whose method a hook is, or that of the method it is a partial call of."""
    return getattr(getattr(hook, "func", hook), "__self__", None)
