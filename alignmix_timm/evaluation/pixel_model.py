"""A network as a function of pixels in [0, 1], which is what attacks, noise and pictures are about."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class PixelModel(nn.Module):
    """A network as logits [B, C] of pixels [B, channels, H, W] in [0, 1]; its mean and std are applied inside.

    In eval mode and fp32; its parameters need no gradients, so that those of the pixels cost nothing else.

    Args:
        net: A classifier of normalized images.
        mean, std: With which it was trained, of each channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, net: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.net: Any = net.float().requires_grad_(False)
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)
        self.eval()

    @property
    def num_classes(self) -> int:
        """C, of a timm model."""
        return self.net.num_classes

    def forward(self, pixels: Tensor) -> Tensor:
        return self.net(self.normalized(pixels))

    def normalized(self, pixels: Tensor) -> Tensor:
        """Pixels as the network takes them."""
        return (pixels - self.mean) / self.std
