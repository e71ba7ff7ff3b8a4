"""The two hooks that mix inside a timm model: on one feature module, and before the classifier.

The model keeps its class, its state_dict keys and its eval output. What to mix is set from outside, once per batch,
before the forward pass (``arm``); the hooks draw nothing and never wait for the device.
"""

import logging
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .effect import NO_EFFECT, alignment_effect
from .functional import align, mix
from .params import MixParams
from .points import MixingPoint, choose_point
from .sinkhorn import CostScale, Transport, assign, check_options

_logger = logging.getLogger(__name__)

# What an armed controller holds, and a disarmed one, such as any copy, does not.
_DISARMED: dict[str, Any] = dict(
    armed=False,  # the next training forward pass has parameters of its own
    expecting=False,  # a training forward pass without them is an error
    pending=False,  # features or embeddings are to be mixed, and have not been
    action="none",
    lam=None,
    perm=None,
    transport=None,
)


class MixingHooks:
    """The hooks on one model, made by :func:`attach`. A copy of the model carries a disarmed copy, which never mixes.

    Attributes:
        point: Where the model is mixed.
        transport: The transport of the last batch that was mixed in a feature mode, for logging; None before.
    """

    action: str
    lam: Tensor | None
    perm: Tensor | None
    transport: Transport | None

    def __init__(self, model: nn.Module, point: MixingPoint, root: nn.Module, fixed: bool, **options: Any) -> None:
        self.model, self.root, self.fixed, self.options = model, root, fixed, options
        self._handles: list[RemovableHandle] = []
        self.disarm()
        self._place(point)

    def arm(self, params: MixParams, image_size: tuple[int, int, int]) -> None:
        """Set what the next training forward pass mixes.

        Args:
            params: On the device of the features.
            image_size: (C, H, W) of the batch. The point is moved where the first batch has another size than the one
                it was chosen for, unless it was chosen by hand.

        Raises:
            RuntimeError, FloatingPointError: as :meth:`check`, for the previous batch.
        """
        self.check()
        if not self.fixed and image_size != self.point.input_size:
            self._place(choose_point(self.model, image_size))
        self.fixed = True
        self.action = "feat" if params.mode == "feat_swap" else params.mode
        self.lam, self.perm = params.lam, params.perm
        self.armed = self.expecting = True
        self.pending = self.action in ("embed", "feat")

    def disarm(self) -> None:
        """Mix nothing, and expect nothing, until the next :meth:`arm`."""
        self.__dict__.update(_DISARMED)

    def check(self) -> None:
        """Make sure that the last batch was mixed as asked. ``arm`` calls it; call it once more at the end.

        Raises:
            RuntimeError: the batch was to be mixed, and no hook ran.
            FloatingPointError: its features were not finite. Looked at on the CPU only, where that needs no wait.
        """
        if self.pending:
            module = self.point.feature_module if self.action == "feat" else self.point.classifiers[0]
            raise RuntimeError(
                f"the batch was to be mixed in mode {self.action!r}, but the hook on {module!r} did not run. Was the "
                "model in eval mode, compiled and called before AlignMix was attached, or another than the attached?"
            )
        if self.transport is not None and self.transport.f.device.type == "cpu" and self.transport.f.isnan().any():
            rows = self.transport.f.isnan().any(1).nonzero().flatten().tolist()
            self.transport = None
            raise FloatingPointError(
                f"the features at {self.point.feature_module!r} are not finite in rows {rows[:8]} of the batch or in "
                "their partners. Look for non-finite images or weights, or lower the learning rate."
            )

    def detach(self) -> None:
        """Remove every trace from the model."""
        while self._handles:
            self._handles.pop().remove()
        self.disarm()

    def _place(self, point: MixingPoint) -> None:
        """Hook the modules of a point instead of those of the previous one; hooks that are in place stay there."""
        previous, self.point = getattr(self, "point", None), point
        _logger.info("AlignMix mixes %s at images of %s.", point, point.input_size)
        if previous is not None and previous.modules == point.modules:
            return
        self.detach()
        modules = dict(self.model.named_modules())
        self._handles.append(modules[point.feature_module].register_forward_hook(self._after_features))
        for name in point.classifiers:
            self._handles.append(modules[name].register_forward_pre_hook(self._before_classifier))

    def _after_features(self, module: nn.Module, args: Any, output: Any) -> Any:
        if not self.root.training:
            return None
        self._take_parameters()
        if self.action != "feat":
            return None
        self.pending = False
        if isinstance(output, tuple):
            return (self._mix_features(output[0]), *output[1:])
        return self._mix_features(output)

    def _before_classifier(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not self.root.training or self.action != "embed":
            return None
        self.pending = False
        perm, lam = self._parameters_for(args[0])
        return (mix(args[0], args[0][perm], lam), *args[1:])

    def _mix_features(self, feats: Tensor) -> Tensor:
        """Align the map of each example's partner and mix; prefix tokens have no position and are only mixed."""
        perm, lam = self._parameters_for(feats)
        tokens, prefix = self.point.layout.split(feats)
        partners, partner_prefix = self.point.layout.split(feats[perm])
        self.transport = assign(tokens, partners, **self.options)
        mixed = mix(tokens, align(partners, self.transport.assignment), lam)
        if prefix is not None and partner_prefix is not None:
            prefix = mix(prefix, partner_prefix, lam)
        return self.point.layout.join(mixed, prefix, like=feats)

    def _parameters_for(self, items: Tensor) -> tuple[Tensor, Tensor]:
        if self.perm is None or self.lam is None or self.perm.shape[0] != items.shape[0]:
            drawn = None if self.perm is None else self.perm.shape[0]
            raise RuntimeError(f"mixing parameters were drawn for {drawn} examples, the model got {items.shape[0]}.")
        return self.perm, self.lam

    def _take_parameters(self) -> None:
        """Allow one forward pass for each ``arm``; activation checkpointing may run it again during backward."""
        stale = not torch.compiler.is_compiling() and self.expecting and not self.armed
        if stale and torch._C._current_graph_task_id() == -1:  # not within backward
            raise RuntimeError(
                "forward pass in training mode without fresh mixing parameters: call AlignMix once for each batch, or "
                "disarm() its hooks to train without mixing."
            )
        self.armed = False

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, **_DISARMED}


def attach(
    model: nn.Module,
    *,
    root: nn.Module | None = None,
    feature_module: str | int | None = None,
    input_size: tuple[int, int, int] | None = None,
    epsilon: float = 0.02,
    num_iters: int = 20,
    cost_scale: CostScale = "mean",
) -> MixingHooks:
    """Hook a timm model so that it can mix features and embeddings. Do this before ``torch.compile``.

    Args:
        model: Any timm classifier; it keeps its class, state_dict and eval output.
        root: Module whose training flag decides whether to mix; default ``model``. Parts in eval mode still mix.
        feature_module: Where to mix features, by name or index, instead of the automatic choice.
        input_size: (C, H, W) of the images; default the size the model was built for, then that of the first batch.
        epsilon, num_iters, cost_scale: See :func:`alignmix_timm.sinkhorn.assign`.

    Returns:
        The hooks: ``arm`` them before each forward pass; ``detach`` removes them.

    Raises:
        ValueError: the model has no usable mixing point, or an option is outside its range.
    """
    check_options(epsilon, num_iters, cost_scale)
    point = choose_point(model, input_size, feature_module)
    if feature_module is not None and (effect := alignment_effect(model, point)) < NO_EFFECT:
        warnings.warn(
            f"alignment has no effect at {point.feature_module!r}: logits of aligned and unaligned mixing differ by "
            f"{effect:.1e} of their size. Choose a module that a spatial operation follows; the automatic choice is "
            f"{choose_point(model, input_size).feature_module!r}.",
            stacklevel=2,
        )
    fixed = feature_module is not None or input_size is not None
    options = {"epsilon": epsilon, "num_iters": num_iters, "cost_scale": cost_scale}
    return MixingHooks(model, point, model if root is None else root, fixed, **options)
