"""The two hooks that mix inside a timm model: on one feature module, and before the classifier.

The model keeps its class, its state_dict keys and its eval output. What to mix is set from outside, once per batch,
before the forward pass (``arm``); the hooks draw nothing and never wait for the device.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..alignment import Alignment
from ..params import MixParams
from ..points import ImageSize, MixingPoint, built_for
from ..points.by_size import PointsBySize
from ..sinkhorn import Transport
from .forward_pass import UNMIXED, Action, ForwardPass, PassHistory, check_finite, in_backward
from .modules import HookedModules
from .saliency import input_saliency

# What an armed controller holds, and a disarmed one, such as any copy, does not.
_DISARMED: dict[str, Any] = dict(
    current=UNMIXED,
    open=False,  # between ``arm`` and ``check``: a forward pass may be mixed
    armed=False,  # the next training forward pass has parameters of its own
    expecting=False,  # a training forward pass without them is an error
    pending=False,  # features or embeddings are to be mixed, and have not been
    transport=None,
)


class MixingHooks:
    """The hooks on one model, made by :func:`alignmix_timm.attach`.

    The training flag of ``root`` decides whether a forward pass is mixed. A copy of the model carries a disarmed copy
    of its hooks, which never mixes.

    Attributes:
        point: Where the model is mixed; None where it has no such place and images alone are mixed.
        alignment: How features are aligned there.
        transport: The transport of the last batch whose features were mixed, for logging; None before the first, and
            where that batch was not aligned.
        saliency_passes: How often the network was asked where images matter, each one more forward and backward pass.
    """

    point: MixingPoint | None
    current: ForwardPass
    pending: bool
    transport: Transport | None

    def __init__(
        self,
        model: nn.Module,
        root: nn.Module,
        alignment: Alignment,
        feature_module: str | int | None = None,
        input_size: ImageSize | None = None,
        layers: Sequence[str | int | None] = (None,),
        classifier: str | Sequence[str] | None = None,
    ) -> None:
        self.model, self.root, self.alignment, self.classifier = model, root, alignment, classifier
        self.attached = True
        self.saliency_passes = 0
        self._points = PointsBySize(model, feature_module, layers, classifier)
        self._modules = HookedModules(model, self._after_layer, self._after_features, self._before_classifier)
        self._history = PassHistory()
        self.disarm()
        self._place(input_size or built_for(model))

    @property
    def action(self) -> str:
        """What is mixed inside the network: none, embed or feat."""
        return self.current.action

    @torch.compiler.disable  # a compiled wrapper must not trace the choice of a point, which traces the model itself
    def arm(self, params: MixParams, image_size: ImageSize) -> None:
        """Set what the next training forward pass mixes. Modules that were replaced are hooked anew.

        Args:
            params: On the device of the features.
            image_size: (C, H, W) of the batch; the point is the one for this size.

        Raises:
            RuntimeError, FloatingPointError: as :meth:`check`, for the previous batch; features or embeddings are to be
                mixed, and the hooks were removed.
            ValueError: no usable mixing point at this image size, or ``align_size`` is larger than its map; a layer
                that is not hooked.
        """
        self.check()
        action: Action = "feat" if params.mixes_features else "embed" if params.mode == "embed" else "none"
        if self.attached:
            self._follow(image_size)
        elif action != "none":
            raise RuntimeError(
                f"the batch was to be mixed in mode {params.mode!r}, but AlignMix was detached from the model: attach "
                "it again, by a new AlignMixModel or AlignMix."
            )
        layer = params.layer if params.mixes_features else None
        if layer is not None and layer not in self._points.names:
            self.disarm()
            raise ValueError(
                f"layer must be one that was hooked, {list(self._points.names)}, got {params.layer!r}. Give the model "
                "the mixer that draws its batches."
            )
        point = self._points.at(image_size)[layer] if action != "none" else None
        aligned = params.aligned and self.alignment.moves
        keys = None if point is None else self.alignment.shuffle_keys(params, point.map_size)
        self.current = ForwardPass(action, point, layer, aligned, params.lam, params.perm, keys)
        self._history.record(self.current)
        self.pending = action != "none"
        self.open = self.armed = self.expecting = True

    def disarm(self) -> None:
        """Mix nothing, and expect nothing, until the next :meth:`arm`."""
        self.__dict__.update(_DISARMED)
        self._history.record(UNMIXED)

    def check(self) -> None:
        """Make sure that the last batch was mixed as asked. ``arm`` calls it; call it once more at the end.

        Raises:
            RuntimeError: the batch was to be mixed, and no hook ran.
            FloatingPointError: features that were aligned were not finite. Looked at on the CPU only, where that needs
                no wait.
        """
        self.open = False
        if self.pending:
            self.pending = False
            replaced = self._modules.replaced()
            change = f"Since it was drawn, {replaced} were replaced in the model. " if replaced else ""
            raise RuntimeError(
                f"the batch was to be mixed in mode {self.action!r}, but the hook on {self.current.module!r} did not "
                f"run. {change}Was the model in eval mode, compiled and called before AlignMix was attached, or "
                "another than the attached? If the batch was skipped, call disarm() of the hooks."
            )
        transport, self.transport = self.transport, None
        check_finite(transport, self.current.module if self.current.point else "the mixing point")
        self.transport = transport

    def check_modes(self) -> None:
        """Make sure that the network does not train unmixed because ``root`` is in eval mode.

        Raises:
            RuntimeError: the network is in training mode and ``root`` is not, while gradients are recorded.
        """
        if not self.root.training and self.model.training and torch.is_grad_enabled():
            raise RuntimeError(
                f"{type(self.root).__name__} is in eval mode, its network in training mode: it would train unmixed. "
                f"Call train() or eval() of {type(self.root).__name__}, which decides whether to mix; or use "
                "torch.no_grad()."
            )

    def saliency(self, images: Tensor, targets: Tensor) -> Tensor:
        """Where the images matter to the network, [B, H, W]: see :func:`input_saliency`."""
        self.saliency_passes += 1
        return input_saliency(self.root, self.model, images, targets)

    def describe(self, layers: Sequence[str | int | None]) -> str:
        """Say in words where batches are mixed, at some of the layers that were given to :func:`attach`."""
        return self._points.describe(self._size, layers)

    def detach(self) -> None:
        """Remove every trace from the model."""
        self._modules.remove()
        self.attached = False
        self.disarm()

    def _follow(self, image_size: ImageSize) -> None:
        """Hook the model as it is now, for this image size."""
        if self._modules.stale():
            self._modules.remove()
            self._points.forget()
            self._place(image_size)
        elif image_size != self._size:
            self._place(image_size)

    def _place(self, image_size: ImageSize) -> None:
        """Hook the modules of the point for this image size, and those of the layers; hooks there already stay."""
        point = self._points.at(image_size).get(None)
        if point is not None:
            if self.alignment.align_embedding and point.embedding_size in (None, (1, 1)):
                raise ValueError(
                    "align_embedding needs an embedding with positions: an Encoder with embedding='tensor' and a grid "
                    f"of at least 4. That of {type(self.model).__name__} has none."
                )
            self.alignment.block(point.map_size)
            self._modules.hook(point, self._points.names)
        self.point, self._size = point, image_size

    def _after_features(self, module: nn.Module, args: Any, output: Any) -> Any:
        self._begin()
        this = self._running()
        return self._mixed(this, output) if this.action == "feat" and this.layer is None else None

    def _after_layer(self, layer: str | int, module: nn.Module, args: Any, output: Any) -> Any:
        this = self._running()
        return self._mixed(this, output) if this.action == "feat" and this.layer == layer else None

    def _before_classifier(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        this = self._running()
        if this.action != "embed":
            return None
        return (self._noted(this, *this.mix_embedding(args[0], self.alignment)), *args[1:])

    def _begin(self) -> None:
        """Allow one training forward pass for each ``arm``, and validation in between."""
        if torch.compiler.is_compiling() or in_backward():
            return
        if self.expecting and self.root.training and not self.armed:
            if self.model.training or torch.is_grad_enabled():
                raise RuntimeError(
                    "forward pass in training mode without fresh mixing parameters: call AlignMix once for each batch, "
                    "or disarm() its hooks to train without mixing. To validate, call eval(), and with an "
                    "AlignMixModel in training mode use torch.no_grad()."
                )
        elif self.expecting:
            self.check_modes()
        self.armed = self.armed and not self.root.training

    def _running(self) -> ForwardPass:
        """What the forward pass that runs now mixes."""
        if not self.root.training:
            return UNMIXED
        if not torch.compiler.is_compiling() and in_backward():
            return self._history.recomputed()
        return self.current if self.open else UNMIXED

    def _mixed(self, this: ForwardPass, output: Any) -> Any:
        """The output of the armed module, its features mixed."""
        if isinstance(output, tuple):
            return (self._mixed(this, output[0]), *output[1:])
        return self._noted(this, *this.mix_features(output, self.alignment))

    def _noted(self, this: ForwardPass, mixed: Tensor, transport: Transport | None) -> Tensor:
        """Note that the batch was mixed, unless an earlier one is recomputed."""
        if this is self.current:
            self.pending = False
            if this.action == "feat" or transport is not None:
                self.transport = transport
        return mixed

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, **_DISARMED, "_history": PassHistory()}
