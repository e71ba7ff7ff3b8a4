"""Whether alignment matters at a mixing point: the degeneracy check."""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.modules.batchnorm import _BatchNorm

from ..alignment import Alignment
from . import MixingPoint
from .copies import copy_without_hooks, wrap_call
from .layout import mix_maps
from .probe import tensors_of

NO_EFFECT = 1e-3  # below this share of the logits, alignment does not matter

_NUM_IMAGES, _CONVERGED = 8, 400  # images, iterations
_NOT_SCALES = ("bias", "token", "pos")


@torch.no_grad()
def alignment_effect(
    model: nn.Module,
    point: MixingPoint,
    alignment: Alignment | None = None,
    seed: int = 0,
) -> float:
    """Relative difference of the logits between aligned and unaligned mixing at a point, Sinkhorn converged.

    Around 1e-6, the rounding of fp32, alignment changes nothing there. Measured on smooth random images and a copy in
    eval mode, with batch-norm statistics of those images, and with scales that are initialised at or near zero (last
    norm of a residual branch, LayerScale) drawn at random: a fresh network is judged as the one it can become.

    Args:
        model: The model.
        point: From :func:`alignmix_timm.choose_point`.
        alignment: How maps are aligned, but for the number of iterations; None is the default.
        seed: Of the images and scales.

    Returns:
        ``|aligned - unaligned| / |unaligned|`` over the logits of eight pairs mixed half and half.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    copied = copy_without_hooks(model, _to_float).eval()
    _leave_start(copied, generator)
    device = next((parameter.device for parameter in copied.parameters()), torch.device("cpu"))
    coarse = torch.randn(_NUM_IMAGES, point.input_size[0], 4, 4, generator=generator, device="cpu")
    images = F.interpolate(coarse, size=point.input_size[1:], mode="bilinear").to(device)
    _calibrate_batch_norm(copied, images)
    return logit_difference(copied, point, images, alignment)


@torch.no_grad()
def logit_difference(model: nn.Module, point: MixingPoint, images: Tensor, alignment: Alignment | None = None) -> float:
    """As :func:`alignment_effect`, of a model in eval mode as it is, on normalised images [B, C, H, W].

    Each image is mixed with the one before it.
    """
    converged = replace(alignment or Alignment(), num_iters=_CONVERGED, assignment="transport")

    def moved(tokens: Tensor, partners: Tensor) -> Tensor:
        return converged.move(tokens, partners, point.map_size)[0]

    def unmoved(tokens: Tensor, partners: Tensor) -> Tensor:
        return partners

    aligned, unaligned = (_mixed_logits(model, point, images, move) for move in (moved, unmoved))
    return float((aligned - unaligned).norm() / unaligned.norm())


def _mixed_logits(
    model: nn.Module, point: MixingPoint, images: Tensor, move: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    def mixed(call: Any, *args: Any, **kwargs: Any) -> Any:
        output = call(*args, **kwargs)
        feats = output[0] if isinstance(output, tuple) else output
        feats = mix_maps(point.layout, feats, feats.roll(1, 0), 0.5, move)
        return (feats, *output[1:]) if isinstance(output, tuple) else feats

    undo = wrap_call(model.get_submodule(point.feature_module), mixed)
    logits = tensors_of(model(images))[0]
    undo()
    return logits


def _leave_start(model: nn.Module, generator: torch.Generator) -> None:
    """Draw scales that were initialised at or near zero from U(0.5, 1.5)."""
    for name, parameter in model.named_parameters():
        constant = bool((parameter == parameter.flatten()[0]).all()) and float(parameter.flatten()[0].abs()) <= 1e-3
        if constant and not any(word in name.rpartition(".")[2] for word in _NOT_SCALES):
            parameter.copy_(torch.rand(parameter.shape, generator=generator, device="cpu") + 0.5)


def _calibrate_batch_norm(model: nn.Module, images: Tensor) -> None:
    """Give batch-norm layers the statistics of these images; in eval mode, where no layer waits for other processes."""

    def measured(layer: _BatchNorm, call: Any, features: Tensor) -> Any:
        dims = [dim for dim in range(features.ndim) if dim != 1]
        layer.running_mean, layer.running_var = features.mean(dims), features.var(dims)
        return call(features)

    layers = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    undo = [wrap_call(layer, functools.partial(measured, layer)) for layer in layers]
    model(images)
    for each in undo:
        each()


def _to_float(tensor: Tensor) -> Tensor:
    """A copy of the data, in fp32, whole where the tensor is sharded."""
    whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    whole = whole.detach().clone()
    return whole.float() if whole.is_floating_point() else whole
