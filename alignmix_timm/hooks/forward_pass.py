"""What one forward pass mixes; and which pass a recomputation repeats, under activation checkpointing."""

from collections import deque
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from ..alignment import Alignment, Grid
from ..functional import mix
from ..points import MixingPoint
from ..points.layout import Layout, mix_maps
from ..sinkhorn import Transport

Action = Literal["none", "embed", "feat"]


@dataclass(frozen=True, eq=False)
class ForwardPass:
    """What one forward pass mixes.

    Attributes:
        action: What is mixed inside the network.
        point: Where, and how features are laid out there; None if nothing is mixed.
        layer: The layer at which features are mixed; None is the mixing point.
        aligned: Whether features are aligned first.
        lam, perm: As in :class:`alignmix_timm.MixParams`.
        keys: For an alignment that shuffles, see :meth:`alignmix_timm.Alignment.shuffle_keys`.
    """

    action: Action = "none"
    point: MixingPoint | None = None
    layer: str | int | None = None
    aligned: bool = True
    lam: Tensor | None = None
    perm: Tensor | None = None
    keys: Tensor | None = None

    @property
    def module(self) -> str:
        """Name of the module whose hook mixes."""
        assert self.point is not None
        return self.point.classifiers[0] if self.action == "embed" else self.point.feature_module

    def mix_features(self, feats: Tensor, alignment: Alignment) -> tuple[Tensor, Transport | None]:
        """Mix features as the feature module returns them; and the transport, if they were aligned.

        Raises:
            RuntimeError: the features are those of another batch or image size than the pass was armed for.
        """
        assert self.point is not None
        return self._mix_maps(self.point.layout, feats, self.point.map_size, alignment)

    def mix_embedding(self, embedding: Tensor, alignment: Alignment) -> tuple[Tensor, Transport | None]:
        """Mix embeddings; and the transport, if they are aligned as well. RuntimeError: as :meth:`mix_features`."""
        if not alignment.align_embedding:
            perm, lam = self._parameters_for(embedding)
            return mix(embedding, embedding[perm], lam), None
        assert self.point is not None
        assert self.point.embedding_size is not None
        whole = replace(alignment, align_size=None)
        return self._mix_maps(Layout("NCHW"), embedding, self.point.embedding_size, whole)

    def _mix_maps(
        self, layout: Layout, maps: Tensor, size: Grid, alignment: Alignment
    ) -> tuple[Tensor, Transport | None]:
        transport = None

        def move(tokens: Tensor, partners: Tensor) -> Tensor:
            nonlocal transport
            height, width = size
            if tokens.shape[1] != height * width:
                assert self.point is not None
                raise RuntimeError(
                    f"armed for images of {self.point.input_size}, with a map of {height} x {width} at "
                    f"{self.module!r}; the model got images with one of {tokens.shape[1]} positions."
                )
            if not self.aligned:
                return partners
            moved, transport = alignment.move(tokens, partners, size, self.keys)
            return moved

        perm, lam = self._parameters_for(maps)
        return mix_maps(layout, maps, maps[perm], lam, move), transport

    def _parameters_for(self, items: Tensor) -> tuple[Tensor, Tensor]:
        if self.perm is None or self.lam is None or self.perm.shape[0] != items.shape[0]:
            drawn = None if self.perm is None else self.perm.shape[0]
            raise RuntimeError(f"mixing parameters were drawn for {drawn} examples, the model got {items.shape[0]}.")
        return self.perm, self.lam


UNMIXED = ForwardPass()


def check_finite(transport: Transport | None, module: str) -> None:
    """Make sure that aligned features were finite; looked at on the CPU only, where that needs no wait.

    Raises:
        FloatingPointError: they were not, in some rows.
    """
    if transport is not None and transport.f.device.type == "cpu" and transport.f.isnan().any():
        rows = transport.f.isnan().any(1).nonzero().flatten().tolist()
        raise FloatingPointError(
            f"the features at {module!r} are not finite in rows {rows[:8]} of the batch or in their partners. Look for "
            "non-finite images or weights, or lower the learning rate."
        )


def in_backward() -> bool:
    """Whether autograd runs: a forward pass is then a recomputation."""
    return torch._C._current_graph_task_id() != -1


class PassHistory:
    """The last forward passes, so that activation checkpointing repeats each with its own parameters.

    Autograd numbers its nodes in the order in which they are made. The node that asks for a recomputation was made in
    the pass that is repeated: after that pass was recorded, and before the next was.
    """

    KEPT = 64

    def __init__(self) -> None:
        self._passes: deque[tuple[int, ForwardPass]] = deque(maxlen=self.KEPT)
        self._backward: int | None = None  # the backward pass that recomputes
        self._recomputed = UNMIXED

    def record(self, this: ForwardPass) -> None:
        """A forward pass begins."""
        with torch.inference_mode(False), torch.enable_grad():
            node: Any = torch.empty(0, device="cpu", requires_grad=True).view(0).grad_fn
        self._passes.append((node._sequence_nr(), this))
        self._backward = None

    def recomputed(self) -> ForwardPass:
        """The pass that autograd repeats now.

        Raises:
            RuntimeError: it is not among the last ones.
        """
        backward = torch._C._current_graph_task_id()
        if self._backward is None:
            self._backward = backward
            torch.autograd.Variable._execution_engine.queue_callback(self._end)
        if backward == self._backward:  # one within it belongs to a checkpoint in the checkpoint: the same pass
            self._recomputed = self._made(torch._C._current_autograd_node()._sequence_nr())
        return self._recomputed

    def _made(self, number: int) -> ForwardPass:
        """The pass in which autograd made the node of this number."""
        for start, this in reversed(self._passes):
            if start <= number:
                return this
        if len(self._passes) == self.KEPT:
            raise RuntimeError(
                f"activation checkpointing repeats a forward pass that is not among the last {self.KEPT}: run backward "
                "earlier."
            )
        return UNMIXED  # before the first that was recorded

    def _end(self) -> None:
        self._backward = None
