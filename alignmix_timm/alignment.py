"""Alignment at a coarser resolution than the map: the plan on averages of blocks, applied to whole blocks.

The cost of alignment grows with the square of the number of positions. On large maps, and where the paper's coarser
alignment is asked for, positions are averaged over square blocks, blocks are matched, and each block moves with its
inner arrangement: position (block i, offset o) receives ``sum_j R[i, j] y[block j, offset o]``. On maps that are
constant within blocks this is the full plan.
"""

import torch.nn.functional as F
from torch import Tensor

from .functional import align

Grid = tuple[int, int]  # height and width


def block_size(grid: Grid, max_positions: int, align_size: int | None = None) -> int:
    """Side of the smallest blocks that leave few enough of them.

    Args:
        grid: Height and width of the map.
        max_positions: Largest number of blocks.
        align_size: If given, also the largest number of blocks along each side.

    Raises:
        ValueError: ``max_positions`` < 4; ``align_size`` < 2, or larger than the map.
    """
    if max_positions < 4:
        raise ValueError(f"max_positions must be >= 4, got {max_positions}. The default is 196.")
    if align_size is not None and not 2 <= align_size <= min(grid):
        raise ValueError(
            f"align_size must be in [2, {min(grid)}], the map is {grid[0]} x {grid[1]}; got {align_size}. For a finer "
            "map use larger images, an earlier feature_module, or a model built with a smaller output_stride."
        )
    block = 1
    while True:
        rows, columns = _blocks(grid, block)
        if rows * columns <= max_positions and (align_size is None or max(rows, columns) <= align_size):
            return block
        block += 1


def pool_blocks(tokens: Tensor, grid: Grid, block: int) -> Tensor:
    """Average tokens [B, H*W, D] over blocks: [B, N, D]. Clipped blocks at the edge average what they have."""
    if block == 1:
        return tokens
    feats = _as_map(tokens, grid)
    pooled = F.avg_pool2d(feats, block, ceil_mode=True, count_include_pad=False)
    return pooled.flatten(2).mT


def align_blocks(y: Tensor, assignment: Tensor, grid: Grid, block: int) -> Tensor:
    """Move whole blocks of tokens ``y`` [B, H*W, D] by an assignment of blocks [B, N, N].

    Clipped blocks at the edge count as full, their last row and column repeated: an offset that a block lacks is taken
    from the nearest position it has. So every aligned token is a convex combination, whatever the assignment; on maps
    with clipped blocks the mean over positions is kept only nearly.
    """
    if block == 1:
        return align(y, assignment)
    rows, columns = _blocks(grid, block)
    feats = F.pad(_as_map(y, grid), (0, columns * block - grid[1], 0, rows * block - grid[0]), mode="replicate")
    batch, dim = feats.shape[:2]
    feats = feats.view(batch, dim, rows, block, columns, block)
    blocks = feats.permute(0, 2, 4, 3, 5, 1).reshape(batch, rows * columns, block * block * dim)
    moved = align(blocks, assignment).view(batch, rows, columns, block, block, dim).transpose(2, 3)
    return moved.reshape(batch, rows * block, columns * block, dim)[:, : grid[0], : grid[1]].flatten(1, 2)


def _blocks(grid: Grid, block: int) -> Grid:
    return -(-grid[0] // block), -(-grid[1] // block)


def _as_map(tokens: Tensor, grid: Grid) -> Tensor:
    return tokens.mT.unflatten(2, grid)
