"""Where an image matters to the network: the gradient of the loss by its pixels, taken beside the training step."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SLOPE = 2**8  # far from the least and the largest number of fp16


def input_saliency(root: nn.Module, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """Root mean square over channels of the gradient of the loss by the pixels (Kim et al., 2020, section 3).

    The loss is the cross-entropy, or the binary one where there is a single class, whatever loss trains the network.

    One more forward and backward pass, in eval mode. Gradients of parameters, batch-norm statistics and random states
    stay as they are; nothing is mixed.

    Args:
        root: Its training flag decides whether hooks mix: the model, or a wrapper around it.
        model: Images to logits [B, C], or to an output with ``logits``.
        images: [B, C, H, W], as the model gets them.
        targets: Dense targets [B, C].

    Returns:
        [B, H, W] fp32, >= 0.

    Raises:
        ValueError: the images hold no floats.
        RuntimeError: the logits do not depend on the images in a way that autograd can follow; the network is fully
            sharded.
    """
    _check_unsharded(root)
    if not images.is_floating_point():
        raise ValueError(f"images must be floating, got {images.dtype}. Convert and normalise images before mixing.")
    with _evaluating(root, model), torch.inference_mode(False), torch.enable_grad():
        pixels = images.detach().clone().requires_grad_()
        output = model(pixels)
        logits = getattr(output, "logits", output)
        gradient = None
        if isinstance(logits, Tensor) and logits.requires_grad:
            slope, scale = _loss_by_logits(logits, targets)
            (gradient,) = torch.autograd.grad(logits, pixels, slope, allow_unused=True)
        if gradient is None:
            raise RuntimeError(
                f"saliency needs logits that are differentiable by the images, and those of {type(model).__name__} "
                "are not. Use a mixer without saliency, such as cutmix."
            )
    return gradient.float().square().mean(1).sqrt() * scale[:, None, None]


def _loss_by_logits(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient of the loss of each image by its logits, [B, C], divided by a power of two, [B].

    Its largest entry is then near :data:`SLOPE`, so that it does not vanish in half precision on the way to the pixels,
    however sure the network is; in full precision no bit depends on it.
    """
    values = logits.detach().float().requires_grad_()
    loss = F.binary_cross_entropy_with_logits if values.shape[1] == 1 else F.cross_entropy
    (slope,) = torch.autograd.grad(loss(values, targets.to(values.dtype), reduction="sum"), values)
    exponent = torch.frexp(slope.abs().amax(1)).exponent.clamp(min=-100)
    scale = torch.ldexp(slope.new_full((len(slope),), 1 / SLOPE), exponent)
    return (slope / scale[:, None]).to(logits.dtype), scale


def _check_unsharded(root: nn.Module) -> None:
    """Refuse FSDP, which shards parameters again after this backward pass, before the forward pass that trains."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel

    if any(isinstance(module, FSDPModule | FullyShardedDataParallel) for module in root.modules()):
        raise RuntimeError(
            "saliency needs a network that is whole in each process, and this one is fully sharded. Use "
            "DistributedDataParallel, or a mixer without saliency, such as cutmix."
        )


@contextmanager
def _evaluating(*roots: nn.Module) -> Iterator[None]:
    """Eval mode for all modules, each put back into its own mode afterwards."""
    modes = {module: module.training for root in roots for module in root.modules()}
    try:
        for module in modes:
            module.training = False
        yield
    finally:
        for module, training in modes.items():
            module.training = training
