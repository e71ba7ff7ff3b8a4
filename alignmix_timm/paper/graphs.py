"""The loss of small batches by CUDA graphs: launching the kernels of a small network takes longer than they run."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from ..model import AlignMixModel
from ..params import MixParams


class Losses:
    """The training loss of each batch; on a GPU by a CUDA graph for every way of mixing, captured when first drawn.

    What is drawn on the CPU while the network runs, or by one mixer alone, cannot be the input of a graph: shuffled
    positions and such mixers run without.

    Args:
        model: In training mode.
    """

    def __init__(self, model: AlignMixModel) -> None:
        self.model = model
        self._graphs: dict[tuple[object, ...], nn.Module] = {}

    def __call__(self, pixels: Tensor, labels: Tensor, params: MixParams) -> Tensor:
        """The loss of normalised images [B, C, H, W] and class indices [B], a scalar."""
        if not pixels.is_cuda or params.extra or self.model.hooks.alignment.assignment == "shuffled":
            loss = self.model(pixels, labels, params).loss
            assert loss is not None
            return loss
        inputs = pixels, labels, *(value.to(pixels.device) for value in (params.lam, params.perm))
        way = params.mixer, params.mode, params.layer, params.aligned, pixels.shape
        if way not in self._graphs:
            self._graphs[way] = _captured(self.model, params, inputs)
        captured: Tensor = self._graphs[way](*inputs)
        return captured


class _Loss(nn.Module):
    """The loss of batches that are mixed in one way, as a function of tensors alone."""

    def __init__(self, model: AlignMixModel, params: MixParams) -> None:
        super().__init__()
        self.model, self.params = model, params

    def forward(self, pixels: Tensor, labels: Tensor, lam: Tensor, perm: Tensor) -> Tensor:
        loss = self.model(pixels, labels, replace(self.params, lam=lam, perm=perm)).loss
        assert loss is not None
        return loss


def _captured(model: AlignMixModel, params: MixParams, inputs: tuple[Tensor, ...]) -> nn.Module:
    """The loss as a graph. Capturing runs the network some times, which must not count in its running averages."""
    before = [buffer.clone() for buffer in model.buffers()]
    loss = _Loss(model, params)
    torch.cuda.make_graphed_callables(loss, tuple(value.clone() for value in inputs))  # replaces its forward
    with torch.no_grad():
        for buffer, value in zip(model.buffers(), before, strict=True):
            buffer.copy_(value)
    return loss
