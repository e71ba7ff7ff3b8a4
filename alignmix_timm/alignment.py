"""How maps are aligned: the options of alignment, and alignment at a coarser resolution than the map.

The cost of alignment grows with the square of the number of positions. On large maps, and where the paper's coarser
alignment is asked for, positions are averaged over square blocks, blocks are matched, and each block moves with its
inner arrangement: position (block i, offset o) receives ``sum_j R[i, j] y[block j, offset o]``. On maps that are
constant within blocks this is the full plan.
"""

from dataclasses import dataclass
from typing import Literal, TypedDict, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .functional import align
from .params import MixParams
from .sinkhorn import EPSILON, NUM_ITERS, CostScale, Transport, assign, check_options

Grid = tuple[int, int]  # height and width
Assignment = Literal["transport", "none", "shuffled", "uniform"]


class AlignmentOptions(TypedDict, total=False):
    """The fields of :class:`Alignment`, where a function takes them as keywords."""

    epsilon: float
    num_iters: int
    cost_scale: CostScale
    align_size: int | None
    max_positions: int
    assignment: Assignment
    align_embedding: bool


@dataclass(frozen=True)
class Alignment:
    """The options of alignment, with their defaults.

    Args:
        epsilon, num_iters, cost_scale: See :func:`alignmix_timm.assign`.
        align_size: Align at a coarser resolution, of at most this many blocks along each side; None is the map's own.
        max_positions: Maps of more positions are aligned in as many blocks at most, >= 4.
        assignment: What a position is mixed with. ``"transport"`` is AlignMix: the positions of the partner that
            optimal transport assigns to it. The others are for comparison: ``"none"`` the same position of the
            partner, ``"shuffled"`` a position drawn at random, each taken once, ``"uniform"`` the partner's average.
        align_embedding: Align the embedding as well, where it is a tensor: see :class:`alignmix_timm.Encoder`.

    Raises:
        ValueError: an option outside its range.
    """

    epsilon: float = EPSILON
    num_iters: int = NUM_ITERS
    cost_scale: CostScale = "rms"
    align_size: int | None = None
    max_positions: int = 196
    assignment: Assignment = "transport"
    align_embedding: bool = False

    def __post_init__(self) -> None:
        check_options(self.epsilon, self.num_iters, self.cost_scale)
        if self.assignment not in get_args(Assignment):
            raise ValueError(f"assignment must be one of {get_args(Assignment)}, got {self.assignment!r}.")

    @property
    def moves(self) -> bool:
        """Whether positions are mixed with others than their own."""
        return self.assignment != "none"

    def transport(self, x: Tensor, y: Tensor) -> Transport:
        """Solve for tokens x [B, N, D] and y [B, M, D], whatever the size of their maps."""
        return assign(x, y, self.epsilon, self.num_iters, self.cost_scale)

    def block(self, grid: Grid) -> int:
        """Side of the blocks in which a map is aligned; ValueError where the options do not fit it."""
        return block_size(grid, self.max_positions, self.align_size)

    def move(
        self, tokens: Tensor, partners: Tensor, grid: Grid, keys: Tensor | None = None
    ) -> tuple[Tensor, Transport | None]:
        """Move the partners' tokens to the positions of the tokens that they correspond to (AlignMix eq. 10).

        Args:
            tokens, partners: Of maps of this height and width, [B, H*W, D].
            grid: H and W.
            keys: From :meth:`shuffle_keys`; needed to shuffle.

        Returns:
            Moved tokens [B, H*W, D]; the transport of the blocks, if they were transported.
        """
        if self.assignment == "none":
            return partners, None
        if self.assignment == "uniform":
            return partners.mean(1, keepdim=True).expand_as(partners), None
        block = self.block(grid)
        blocks = pool_blocks(tokens, grid, block), pool_blocks(partners, grid, block)
        if self.assignment == "shuffled":
            return align_blocks(partners, _shuffled(keys, blocks[1].shape[1]), grid, block), None
        transport = self.transport(*blocks)
        return align_blocks(partners, transport.assignment, grid, block), transport

    def shuffle_keys(self, params: MixParams, grid: Grid) -> Tensor | None:
        """Random numbers whose order is that of shuffled positions, [B, H*W], drawn with the batch; None otherwise."""
        if self.assignment != "shuffled":
            return None
        keys = np.random.default_rng(params.seed).random((len(params), grid[0] * grid[1]), dtype=np.float32)
        return torch.from_numpy(keys).to(params.perm.device, non_blocking=True)


def _shuffled(keys: Tensor | None, positions: int) -> Tensor:
    """One permutation of the positions for each pair, as an assignment [B, N, N]."""
    assert keys is not None
    order = keys[:, :positions].argsort(1)
    return torch.zeros(*order.shape, positions, device=keys.device).scatter_(2, order.unsqueeze(2), 1.0)


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
