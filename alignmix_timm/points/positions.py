"""The positions of a mixing point in an image: their tokens, where they are, and which of them an object covers.

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
        rows, columns: Where each row and each column of positions starts and ends, as shares of the height and width
            of the image: [R, 2], [C, 2] float64.
    """

    point: MixingPoint
    block: int
    rows: Tensor
    columns: Tensor

    @classmethod
    def of(cls, point: MixingPoint, alignment: Alignment) -> "Positions":
        """Those that this alignment has at the point."""
        block = alignment.block(point.map_size)
        return cls(point, block, *(_edges(side, block) for side in point.map_size))

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

    def centers(self) -> Tensor:
        """(x, y) of the centre of each position, as shares of the width and height of the image, [N, 2]."""
        y, x = torch.meshgrid(self.rows.mean(1), self.columns.mean(1), indexing="ij")
        return torch.stack([x, y], -1).flatten(0, 1)

    def inside(self, boxes: Tensor) -> Tensor:
        """Which positions lie in one of the boxes with at least half of their area, [N] bool.

        Args:
            boxes: (x0, y0, x1, y1) as shares of the width and height of the image, [K, 4].
        """
        x0, y0, x1, y1 = boxes.double().T[..., None]
        across, down = _share(self.columns, x0, x1), _share(self.rows, y0, y1)
        return (down[:, :, None] * across[:, None, :] >= 0.5).any(0).flatten()

    def outstanding(self, tokens: Tensor) -> tuple[int, int]:
        """Row and column of the position whose token, of [N, D], is farthest from the mean of all."""
        row, column = divmod(int((tokens - tokens.mean(0)).norm(dim=1).argmax()), len(self.columns))
        return row, column


def _edges(side: int, block: int) -> Tensor:
    """Where the blocks along a side start and end, as shares of it; the last may be clipped."""
    starts = torch.arange(0, side, block, dtype=torch.float64)
    return torch.stack([starts, (starts + block).clamp_max(side)], 1) / side


def _share(edges: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Which share of each interval [P, 2] lies between the bounds [K, 1] of each box: [K, P]."""
    start, end = edges.T
    return (torch.minimum(end, high) - torch.maximum(start, low)).clamp_min(0) / (end - start)


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
