"""The two hooks that mix inside a timm model: on one feature module, and before the classifier.

The model keeps its class, its state_dict keys and its eval output. What to mix is set from outside, once per batch,
before the forward pass (``arm``); the hooks draw nothing and never wait for the device.
"""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .alignment import Alignment
from .functional import align, mix
from .params import MixParams
from .points import ImageSize, MixingPoint, built_for
from .points.by_size import PointsBySize
from .points.layout import Layout, mix_maps
from .sinkhorn import Transport

# What an armed controller holds, and a disarmed one, such as any copy, does not.
_DISARMED: dict[str, Any] = dict(
    armed=False,  # the next training forward pass has parameters of its own
    expecting=False,  # a training forward pass without them is an error
    pending=False,  # features or embeddings are to be mixed, and have not been
    action="none",  # none, embed or feat
    layer=None,  # where features are mixed; None is the mixing point
    aligned=True,
    lam=None,
    perm=None,
    transport=None,
)


class MixingHooks:
    """The hooks on one model, made by :func:`alignmix_timm.attach`.

    A copy of the model carries a disarmed copy of its hooks, which never mixes.

    Attributes:
        point: Where the model is mixed.
        alignment: How features are aligned there.
        transport: The transport of the last batch whose features were mixed, for logging; None before the first, and
            where that batch was not aligned.
    """

    point: MixingPoint
    action: str
    pending: bool
    layer: str | int | None
    aligned: bool
    lam: Tensor | None
    perm: Tensor | None
    transport: Transport | None

    def __init__(
        self,
        model: nn.Module,
        root: nn.Module,
        alignment: Alignment,
        feature_module: str | int | None = None,
        input_size: ImageSize | None = None,
        layers: Sequence[str | int | None] = (),
    ) -> None:
        self.model, self.root, self.alignment = model, root, alignment
        self._points = PointsBySize(model, feature_module, layers)
        self._hooked: tuple[str, ...] = ()
        self._handles: list[RemovableHandle] = []
        self.disarm()
        self._place(input_size or built_for(model))

    @torch.compiler.disable  # a compiled wrapper must not trace the choice of a point, which traces the model itself
    def arm(self, params: MixParams, image_size: ImageSize) -> None:
        """Set what the next training forward pass mixes.

        Args:
            params: On the device of the features.
            image_size: (C, H, W) of the batch; the point is the one for this size.

        Raises:
            RuntimeError, FloatingPointError: as :meth:`check`, for the previous batch.
            ValueError: no usable mixing point at this image size, or ``align_size`` is larger than its map; a layer
                that is not hooked.
        """
        self.check()
        if image_size != self.point.input_size:
            self._place(image_size)
        self.action = "feat" if params.mixes_features else "embed" if params.mode == "embed" else "none"
        self.pending = self.action != "none"
        self.layer = params.layer if params.mixes_features else None
        if self.layer is not None and self.layer not in self._points.names:
            self.disarm()
            raise ValueError(
                f"layer must be one that was hooked, {list(self._points.names)}, got {params.layer!r}. Give the model "
                "the mixer that draws its batches."
            )
        self.aligned = params.aligned and self.alignment.aligned
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
            module = self._armed_module()
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

    def describe(self, layers: Sequence[str | int | None]) -> str:
        """Say in words where batches are mixed, at some of the layers that were given to :func:`attach`."""
        return self._points.describe(self.point.input_size, layers)

    def detach(self) -> None:
        """Remove every trace from the model."""
        while self._handles:
            self._handles.pop().remove()
        self._hooked = ()
        self.disarm()

    def _armed_module(self) -> str:
        """Name of the module whose hook mixes the batch."""
        if self.action == "embed":
            return self.point.classifiers[0]
        return self.point.feature_module if self.layer is None else self._points.names[self.layer]

    def _place(self, image_size: ImageSize) -> None:
        """Hook the modules of the point for this image size, and those of the layers; hooks there already stay."""
        point = self._points.at(image_size)[None]
        if self.alignment.align_embedding and point.embedding_size in (None, (1, 1)):
            raise ValueError(
                "align_embedding needs an embedding with positions: an Encoder with embedding='tensor' and a grid of "
                f"at least 4. That of {type(self.model).__name__} has none."
            )
        self.alignment.block(point.map_size)
        if self._hooked != point.modules:
            while self._handles:
                self._handles.pop().remove()
            for layer, name in self._points.names.items():
                hook = functools.partial(self._after_layer, layer)
                self._handles.append(self.model.get_submodule(name).register_forward_hook(hook))
            feature_module = self.model.get_submodule(point.feature_module)
            self._handles.append(feature_module.register_forward_hook(self._after_features))
            classifiers = [self.model.get_submodule(name) for name in point.classifiers]
            self._handles += [module.register_forward_pre_hook(self._before_classifier) for module in classifiers]
            self._hooked = point.modules
        self.point = point

    def _after_features(self, module: nn.Module, args: Any, output: Any) -> Any:
        if not self.root.training:
            return None
        self._take_parameters()
        return self._mixed(output) if self.action == "feat" and self.layer is None else None

    def _after_layer(self, layer: str | int, module: nn.Module, args: Any, output: Any) -> Any:
        if not self.root.training or self.action != "feat" or self.layer != layer:
            return None
        return self._mixed(output)

    def _mixed(self, output: Any) -> Any:
        """The output of the armed module, its features mixed."""
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
        point = self._points.at(self.point.input_size)[self.layer]
        move = functools.partial(self._align, point)
        return mix_maps(point.layout, feats, feats[perm], lam, move)

    def _mix_embedding(self, embedding: Tensor) -> Tensor:
        perm, lam = self._parameters_for(embedding)
        if not self.alignment.align_embedding:
            return mix(embedding, embedding[perm], lam)
        return mix_maps(Layout("NCHW"), embedding, embedding[perm], lam, self._align_embedding)

    def _align(self, point: MixingPoint, tokens: Tensor, partners: Tensor) -> Tensor:
        """Move the partners' tokens to where the tokens have theirs; leave them if the batch is not aligned."""
        height, width = point.map_size
        if tokens.shape[1] != height * width:
            raise RuntimeError(
                f"armed for images of {point.input_size}, with a map of {height} x {width} at "
                f"{point.feature_module!r}; the model got images with one of {tokens.shape[1]} positions."
            )
        if not self.aligned:
            self.transport = None
            return partners
        moved, self.transport = self.alignment.move(tokens, partners, point.map_size)
        return moved

    def _align_embedding(self, tokens: Tensor, partners: Tensor) -> Tensor:
        self.transport = self.alignment.transport(tokens, partners)
        return align(partners, self.transport.assignment)

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
