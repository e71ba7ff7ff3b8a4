"""The two hooks that mix inside a timm model: on one feature module, and before the classifier.

The model keeps its class, its state_dict keys and its eval output. What to mix is set from outside, once per batch,
before the forward pass (``arm``); the hooks draw nothing and never wait for the device.
"""

import logging
from typing import Any, TypedDict

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .alignment import align_blocks, block_size, pool_blocks
from .functional import align, mix
from .params import MixParams
from .points import MixingPoint, built_for, choose_point
from .points.layout import Layout, mix_maps
from .sinkhorn import CostScale, Transport, assign

_logger = logging.getLogger(__name__)

ImageSize = tuple[int, int, int]

# What an armed controller holds, and a disarmed one, such as any copy, does not.
_DISARMED: dict[str, Any] = dict(
    armed=False,  # the next training forward pass has parameters of its own
    expecting=False,  # a training forward pass without them is an error
    pending=False,  # features or embeddings are to be mixed, and have not been
    action="none",  # none, embed or feat
    lam=None,
    perm=None,
    transport=None,
)


class AttachOptions(TypedDict, total=False):
    """The keyword options of :func:`alignmix_timm.attach`, where a class takes them to pass them on."""

    feature_module: str | int | None
    input_size: ImageSize | None
    epsilon: float
    num_iters: int
    cost_scale: CostScale
    align_size: int | None
    max_positions: int
    aligned: bool
    align_embedding: bool


class MixingHooks:
    """The hooks on one model, made by :func:`alignmix_timm.attach`.

    A copy of the model carries a disarmed copy of its hooks, which never mixes.

    Attributes:
        point: Where the model is mixed.
        transport: The transport of the last batch that was aligned, for logging; None before.
    """

    point: MixingPoint
    action: str
    pending: bool
    lam: Tensor | None
    perm: Tensor | None
    transport: Transport | None

    def __init__(self, model: nn.Module, root: nn.Module, options: AttachOptions) -> None:
        self.model, self.root, self.options = model, root, options
        self._points: dict[ImageSize, MixingPoint] = {}
        self._hooked: tuple[str, ...] = ()
        self._handles: list[RemovableHandle] = []
        self.disarm()
        self._place(options["input_size"] or built_for(model))

    def arm(self, params: MixParams, image_size: ImageSize) -> None:
        """Set what the next training forward pass mixes.

        Args:
            params: On the device of the features.
            image_size: (C, H, W) of the batch; the point is the one for this size.

        Raises:
            RuntimeError, FloatingPointError: as :meth:`check`, for the previous batch.
            ValueError: no usable mixing point at this image size, or ``align_size`` is larger than its map.
        """
        self.check()
        if image_size != self.point.input_size:
            self._place(image_size)
        self.pending = params.mode in ("embed", "feat", "feat_swap")
        self.action = params.mode.removesuffix("_swap") if self.pending else "none"
        self.lam, self.perm = params.lam, params.perm
        self.armed = self.expecting = True

    def disarm(self) -> None:
        """Mix nothing, and expect nothing, until the next :meth:`arm`."""
        self.__dict__.update(_DISARMED)

    def check(self) -> None:
        """Make sure that the last batch was mixed as asked. ``arm`` calls it; call it once more at the end.

        Raises:
            RuntimeError: the batch was to be mixed, and no hook ran.
            FloatingPointError: features that were aligned were not finite. Looked at on the CPU only, where that needs
                no wait.
        """
        if self.pending:
            self.pending = False
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
        self._hooked = ()
        self.disarm()

    def _place(self, image_size: ImageSize) -> None:
        """Hook the modules of the point for this image size; hooks that are there already stay."""
        if image_size not in self._points:
            self._points[image_size] = choose_point(self.model, image_size, self.options["feature_module"])
            _logger.info("AlignMix mixes %s at images of %s.", self._points[image_size], image_size)
        point = self._points[image_size]
        if self.options["align_embedding"] and point.embedding_size in (None, (1, 1)):
            raise ValueError(
                "align_embedding needs an embedding with positions: an Encoder with embedding='tensor' and a grid of "
                f"at least 4. That of {type(self.model).__name__} has none."
            )
        block = block_size(point.map_size, self.options["max_positions"], self.options["align_size"])
        if self._hooked != point.modules:
            while self._handles:
                self._handles.pop().remove()
            feature_module = self.model.get_submodule(point.feature_module)
            self._handles.append(feature_module.register_forward_hook(self._after_features))
            for name in point.classifiers:
                classifier = self.model.get_submodule(name)
                self._handles.append(classifier.register_forward_pre_hook(self._before_classifier))
            self._hooked = point.modules
        self.point, self._block = point, block

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
        return (self._mix_embedding(args[0]), *args[1:])

    def _mix_features(self, feats: Tensor) -> Tensor:
        perm, lam = self._parameters_for(feats)
        return mix_maps(self.point.layout, feats, feats[perm], lam, self._align)

    def _mix_embedding(self, embedding: Tensor) -> Tensor:
        perm, lam = self._parameters_for(embedding)
        if not self.options["align_embedding"]:
            return mix(embedding, embedding[perm], lam)
        return mix_maps(Layout("NCHW"), embedding, embedding[perm], lam, self._align_embedding)

    def _align(self, tokens: Tensor, partners: Tensor) -> Tensor:
        """Move the partners' tokens to where the tokens have theirs; leave them if ``aligned`` is off."""
        grid, block = self.point.map_size, self._block
        if tokens.shape[1] != grid[0] * grid[1]:
            raise RuntimeError(
                f"armed for images of {self.point.input_size}, with a map of {grid[0]} x {grid[1]} at "
                f"{self.point.feature_module!r}; the model got images with one of {tokens.shape[1]} positions."
            )
        if not self.options["aligned"]:
            self.transport = None
            return partners
        assignment = self._assignment(pool_blocks(tokens, grid, block), pool_blocks(partners, grid, block))
        return align_blocks(partners, assignment, grid, block)

    def _align_embedding(self, tokens: Tensor, partners: Tensor) -> Tensor:
        return align(partners, self._assignment(tokens, partners))

    def _assignment(self, tokens: Tensor, partners: Tensor) -> Tensor:
        options = self.options
        self.transport = assign(tokens, partners, options["epsilon"], options["num_iters"], options["cost_scale"])
        return self.transport.assignment

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
