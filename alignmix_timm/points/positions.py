"""The positions of a mixing point in an image: their tokens, their centres, and which of them an object covers.

Where the map is so large that it is aligned in blocks, a position is a block.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..alignment import Alignment, pool_blocks
from . import MixingPoint


@dataclass(frozen=True)
class Positions:
    """The positions that are aligned at a point.

    Attributes:
        point: The mixing point.
        block: Side of a position, in positions of the map.
        rows, columns: Centres of the rows and of the columns of positions, as shares of the height and width of the
            image: [R], [C] float64.
    """

    point: MixingPoint
    block: int
    rows: Tensor
    columns: Tensor

    @classmethod
    def of(cls, point: MixingPoint, alignment: Alignment) -> "Positions":
        """Those that this alignment has at the point."""
        block = alignment.block(point.map_size)
        return cls(point, block, *(_centers(side, block) for side in point.map_size))

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of positions."""
        return len(self.rows), len(self.columns)

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    def tokens(self, feats: Tensor) -> Tensor:
        """Tokens [B, N, D] of the point's feature maps."""
        tokens, _ = self.point.layout.split(feats)
        return pool_blocks(tokens, self.point.map_size, self.block)

    def inside(self, boxes: Tensor) -> Tensor:
        """Which positions have their centre inside one of the boxes, [N] bool.

        Args:
            boxes: (x0, y0, x1, y1) as shares of the width and height of the image, [K, 4].
        """
        x0, y0, x1, y1 = boxes.double().T[..., None]
        rows, columns = (y0 <= self.rows) & (self.rows < y1), (x0 <= self.columns) & (self.columns < x1)
        return (rows[:, :, None] & columns[:, None, :]).any(0).flatten()


def _centers(side: int, block: int) -> Tensor:
    """Centres of the blocks along a side, as shares of it; the last may be clipped."""
    starts = torch.arange(0, side, block, dtype=torch.float64)
    return (starts + (starts + block).clamp_max(side)) / (2 * side)


@torch.no_grad()
def tokens_at(net: nn.Module, places: Sequence[Positions], images: Tensor, batch_size: int = 32) -> list[Tensor]:
    """Tokens [B, N, D] of normalised images [B, C, H, W] at each of the places, on the CPU; the net in eval mode."""
    found: list[list[Tensor]] = [[] for _ in places]

    def keep(tokens: list[Tensor], place: Positions) -> torch.utils.hooks.RemovableHandle:
        def hook(module: nn.Module, args: object, output: Tensor | tuple[Tensor, ...]) -> None:
            tokens.append(place.tokens(output[0] if isinstance(output, tuple) else output).float().cpu())

        return net.get_submodule(place.point.feature_module).register_forward_hook(hook)

    handles = [keep(tokens, place) for tokens, place in zip(found, places, strict=True)]
    device = next(net.parameters()).device
    try:
        for batch in images.split(batch_size):
            net(batch.to(device))
    finally:
        for handle in handles:
            handle.remove()
    return [torch.cat(tokens) for tokens in found]
