"""The decoder D of AlignMix/AE: the residual generator of WGAN-GP, from embeddings to images.

AlignMix, sections 3.3 and 4.1; Gulrajani et al. 2017 (https://arxiv.org/abs/1704.00028).
"""

import torch.nn.functional as F
from torch import Tensor, nn

SMALLEST, LARGEST = 4, 7  # height and width of the first map: 4 for images of 32 and 64, 7 for 224


class UpBlock(nn.Module):
    """Pre-activation residual block that doubles height and width, by nearest neighbours."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(in_channels), nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.shortcut = nn.Conv2d(in_channels, channels, 1)

    def forward(self, feats: Tensor) -> Tensor:
        """[B, C, H, W] to [B, channels, 2 H, 2 W]."""
        inner = self.conv1(_double(F.relu(self.norm1(feats))))
        return self.shortcut(_double(feats)) + self.conv2(F.relu(self.norm2(inner)))


class Decoder(nn.Module):
    """Embeddings [B, embed_dim] to images [B, C, S, S] in [-1, 1].

    Args:
        embed_dim: Dimension of the embedding.
        image: (C, S, S) of the images; S is 4 to 7 times a power of two: 32, 64, 224, ...
        width: Channels of every block.

    Raises:
        ValueError: no such size.
    """

    def __init__(self, embed_dim: int, image: tuple[int, int, int], width: int = 128) -> None:
        super().__init__()
        channels, height, side = image
        blocks = 0
        while side > LARGEST and side % 2 == 0:
            side, blocks = side // 2, blocks + 1
        if image[1] != image[2] or not SMALLEST <= side <= LARGEST:
            raise ValueError(
                f"images to decode must be square, {SMALLEST} to {LARGEST} pixels times a power of two, such as 32, 64 "
                f"or 224, got {height} x {image[2]}."
            )
        self.first = nn.Linear(embed_dim, width * side**2)
        self.shape = (width, side, side)
        self.blocks = nn.Sequential(*[UpBlock(width, width) for _ in range(blocks)])
        self.norm = nn.BatchNorm2d(width)
        self.last = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, embedding: Tensor) -> Tensor:
        """Decode; the result is fp32, also under autocast."""
        feats = self.blocks(self.first(embedding).unflatten(1, self.shape))
        return self.last(F.relu(self.norm(feats))).float().tanh()


def _double(feats: Tensor) -> Tensor:
    return F.interpolate(feats, scale_factor=2, mode="nearest")
