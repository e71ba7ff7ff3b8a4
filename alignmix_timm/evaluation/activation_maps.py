"""Class activation maps (Zhou et al., 2016, https://arxiv.org/abs/1512.04150) of any timm classifier that has them.

Where a linear classifier follows global average pooling, the logit of a class is the mean over positions of what the
head makes of each position alone: the map. The mean also tells whether it is one, for of any other head it is another
number than the logit.

A layer norm between pooling and classifier (ConvNeXt) divides by the standard deviation of the pooled features. With
that divisor, the same for all positions of an image, the mean is the logit there too.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

# Shares of the largest value in the maps of an image. Of the first, rounding in float32 takes 1e-6, and a hidden layer
# with initial weights makes 1e-4 and more. The second is between batches of different size.
_TOLERANCE, _BATCH_TOLERANCE = 2e-5, 1e-3


@torch.no_grad()
def activation_maps(net: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """The logits of images, and the map of each class, over which the bias is spread evenly.

    Args:
        net: A timm model in evaluation mode: global average pooling, at most a layer norm, and a linear classifier. Its
            features may be a map [B, D, h, w], one [B, h, w, D], or the tokens of a grid of patches.
        images: As the network takes them, [B, C, H, W].

    Returns:
        Logits [B, K], and maps [B, K, h, w] whose means over positions are the logits. Those of an image need not be
        finite if its logits are not.

    Raises:
        ValueError: the network is in training mode, or has no such maps; the sentence says why.
    """
    network: Any = net
    if net.training:
        raise ValueError("net must be in evaluation mode, got one in training mode: call net.eval().")
    if not (hasattr(net, "forward_features") and hasattr(net, "forward_head") and getattr(net, "num_classes", True)):
        raise _no_maps(net, "it lacks the forward_features, the forward_head or the classifier of timm's models")
    features = network.forward_features(images)
    positions, grid = _single_positions(network, features)
    scales: dict[nn.Module, Tensor] = {}
    try:
        with _hooked_norms(net, lambda norm, x, _: _keep_scale(scales, norm, x)):
            logits = network.forward_head(features)
        with _hooked_norms(net, lambda norm, x, y: _with_scale(scales, norm, x, y)):
            alone = network.forward_head(positions)
    except (RuntimeError, ValueError, IndexError) as error:  # of a head for one size of map
        raise _no_maps(net, f"its head does not take a single position: {error}") from error
    if not isinstance(logits, Tensor) or logits.ndim != 2 or alone.shape != (len(positions), logits.shape[1]):
        raise _no_maps(net, "its head does not return logits [B, K]")
    maps = alone.unflatten(0, (len(images), *grid)).permute(0, 3, 1, 2)
    known = torch.isfinite(maps).flatten(1).all(1) & torch.isfinite(logits).all(1)
    if not _equal(maps.mean((2, 3))[known], logits[known], maps[known], _TOLERANCE):
        raise _no_maps(net, "its logits are not the means of what its head makes of each position")
    if known[:1].all() and not _equal(network(images[:1]), logits[:1], maps[:1], _BATCH_TOLERANCE):
        raise _no_maps(net, "its logits are not those of forward_head(forward_features(images))")
    return logits, maps


def _no_maps(net: nn.Module, reason: str) -> ValueError:
    return ValueError(
        f"{type(net).__name__} has no class activation maps: {reason.rstrip('.')}. Localization needs a timm model "
        "with global average pooling and a linear classifier, such as a ResNet, EfficientNet, ConvNeXt or Swin."
    )


def _single_positions(net: Any, features: Any) -> tuple[Tensor, tuple[int, int]]:
    """Each position of the features as features of that position alone, [B * h * w, ...], and (h, w)."""
    if not isinstance(features, Tensor) or features.ndim not in (3, 4):
        raise _no_maps(net, "its features are neither a map [B, D, h, w] or [B, h, w, D] nor tokens [B, N, D]")
    if features.ndim == 3:
        prefix = getattr(net, "num_prefix_tokens", 0)
        grid = getattr(getattr(net, "patch_embed", None), "grid_size", None)
        count = features.shape[1] - prefix
        if grid is None or grid[0] * grid[1] != count:  # then who knows the order of the tokens
            raise _no_maps(net, "its tokens are not those of the grid of its patches")
        tokens = features[:, prefix:].flatten(0, 1)[:, None]
        # After zeros: logits that lean on a class token are not the mean of what is made of the others.
        positions = torch.cat([tokens.new_zeros(len(tokens), prefix, tokens.shape[2]), tokens], 1)
    elif features.shape[1] != net.num_features and features.shape[3] == net.num_features:
        grid, positions = features.shape[1:3], features.flatten(0, 2)[:, None, None]
    else:
        grid, positions = features.shape[2:], features.permute(0, 2, 3, 1).flatten(0, 2)[:, :, None, None]
    if grid[0] * grid[1] == 1:
        raise _no_maps(net, "its features have a single position for images of this size")
    return positions, (grid[0], grid[1])


@contextmanager
def _hooked_norms(net: nn.Module, hook: Callable[[nn.LayerNorm, Tensor, Tensor], Tensor | None]) -> Iterator[None]:
    """Within it, what ``hook`` makes of the input and output of a layer norm replaces the output, unless None."""
    norms = [module for module in net.modules() if isinstance(module, nn.LayerNorm)]
    handles = [norm.register_forward_hook(lambda norm, args, y: hook(norm, args[0], y)) for norm in norms]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _keep_scale(scales: dict[nn.Module, Tensor], norm: nn.LayerNorm, x: Tensor) -> None:
    """Keep what a norm divides by, of pooled features; a norm before pooling goes position by position anyway."""
    pooled = x.flatten(1)
    if pooled.shape[1:] == norm.normalized_shape:
        scales[norm] = (pooled.var(1, correction=0, keepdim=True) + norm.eps).rsqrt()


def _with_scale(scales: dict[nn.Module, Tensor], norm: nn.LayerNorm, x: Tensor, y: Tensor) -> Tensor | None:
    """The output of a norm with the kept divisors, those of an image for each of its positions."""
    if norm not in scales:
        return None
    x = x.flatten(1)
    scale = scales[norm].repeat_interleave(len(x) // len(scales[norm]), 0)
    weight, bias = (1.0, 0.0) if norm.weight is None else (norm.weight, norm.bias)
    return ((x - x.mean(1, keepdim=True)) * scale * weight + (0.0 if bias is None else bias)).view_as(y)


def _equal(first: Tensor, second: Tensor, maps: Tensor, tolerance: float) -> bool:
    """Whether logits [B, K] agree up to a share of the largest value in their maps [B, K, h, w]."""
    return bool(((first - second).abs() <= tolerance * maps.abs().amax((1, 2, 3))[:, None]).all())
