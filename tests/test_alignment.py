import pytest
import timm
import torch
from oracles import clustered_tokens
from torch import Tensor

from alignmix_timm import AlignMixModel, align, assign, draw
from alignmix_timm.alignment import align_blocks, block_size, pool_blocks


def test_block_size_is_the_smallest_that_fits() -> None:
    assert block_size((14, 14), 196) == 1
    assert block_size((16, 16), 196) == 2
    assert block_size((37, 37), 196) == 3
    assert block_size((7, 7), 196, align_size=4) == 2
    assert block_size((14, 28), 196, align_size=4) == 7


@pytest.mark.parametrize("align_size", [1, 8])
def test_align_size_must_fit_the_map(align_size: int) -> None:
    with pytest.raises(ValueError, match=r"align_size must be in \[2, 7\].*finer map use larger images"):
        block_size((7, 9), 196, align_size)
    with pytest.raises(ValueError, match="max_positions must be >= 4, got 0"):
        block_size((7, 9), 0)


def blocks_by_hand(y: Tensor, assignment: Tensor, grid: tuple[int, int], block: int) -> Tensor:
    """Position (block i, offset o) receives sum_j R[i, j] y[block j, offset o]; past the edge, the nearest one."""
    rows, columns = -(-grid[0] // block), -(-grid[1] // block)
    feats = y.view(len(y), *grid, -1)
    aligned = torch.zeros_like(feats)
    for top in range(grid[0]):
        for left in range(grid[1]):
            i = top // block * columns + left // block
            for j in range(rows * columns):
                row = min(j // columns * block + top % block, grid[0] - 1)
                column = min(j % columns * block + left % block, grid[1] - 1)
                aligned[:, top, left] += assignment[:, i, j, None] * feats[:, row, column]
    return aligned.flatten(1, 2)


@pytest.mark.parametrize(("grid", "block"), [((4, 6), 2), ((5, 7), 2), ((6, 6), 3), ((4, 4), 1)])
def test_blocks_move_with_their_arrangement(grid: tuple[int, int], block: int) -> None:
    x, y = (torch.randn(2, grid[0] * grid[1], 5, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    assignment = assign(pool_blocks(x, grid, block), pool_blocks(y, grid, block), 0.1).assignment
    found = align_blocks(y, assignment, grid, block)
    assert torch.allclose(found, blocks_by_hand(y, assignment, grid, block), atol=1e-5)
    ones = align_blocks(torch.ones_like(y), assignment, grid, block)
    assert torch.allclose(ones, torch.ones_like(y), atol=1e-5)  # every row sums to 1


def test_pooling_averages_what_a_clipped_block_has() -> None:
    tokens = torch.arange(15.0).view(1, 15, 1)
    assert pool_blocks(tokens, (3, 5), 2).flatten().tolist() == [3.0, 5.0, 6.5, 10.5, 12.5, 14.0]


@pytest.mark.parametrize("grid", [(6, 8), (4, 4)])
def test_equals_the_full_plan_on_maps_that_are_constant_within_blocks(grid: tuple[int, int]) -> None:
    coarse_x, coarse_y = (clustered_tokens(2, grid[0] * grid[1] // 4, 6, seed) for seed in (0, 1))

    def repeat(tokens: Tensor) -> Tensor:
        fine = tokens.view(2, grid[0] // 2, grid[1] // 2, 6)
        return fine.repeat_interleave(2, 1).repeat_interleave(2, 2).flatten(1, 2)

    x, y = repeat(coarse_x), repeat(coarse_y)
    full = align(y, assign(x, y, 0.1, 500).assignment)
    coarse = assign(pool_blocks(x, grid, 2), pool_blocks(y, grid, 2), 0.1, 500).assignment
    assert torch.allclose(align_blocks(y, coarse, grid, 2), full, atol=1e-3)


@pytest.mark.parametrize(("name", "options"), [("test_resnet", {}), ("test_vit", {"img_size": 160})])
def test_the_model_aligns_at_the_resolution_asked_for(name: str, options: dict) -> None:
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=4, **options)
    images, params, logits = torch.randn(3, 3, 160, 160), draw(3, 0, 0, modes=("feat",)), []
    for align_size, max_positions, positions in ((None, 196, 100), (4, 196, 16), (None, 50, 25)):
        model = AlignMixModel(net, align_size=align_size, max_positions=max_positions).train()
        logits.append(model(images, torch.arange(3), params).logits)
        assert model.hooks.transport.assignment.shape == (3, positions, positions)
        model.detach()
    assert not torch.allclose(logits[0], logits[1], atol=1e-5)
    with pytest.raises(ValueError, match="align_size must be in"):
        AlignMixModel(net, align_size=11)
