"""Blocks of images, moved to where they show: a transport of each to a place of its own (PuzzleMix, section 4.2)."""

import torch
from torch import Tensor


def transport_cost(salience: Tensor, visible: Tensor, eps: float) -> Tensor:
    """Cost of each block at each place: ``eps`` times the squared distance, less its salience where it shows.

    Args:
        salience: Of each block, [B, R, C].
        visible: Whether the place shows this image, [B, R, C] bool.
        eps: Weight of the distance, of which the image is 1 high and 1 wide.

    Returns:
        [B, R * C, R * C]: blocks, places.
    """
    sides = (torch.linspace(0, 1, length, device=salience.device) for length in salience.shape[1:])
    rows, columns = ((side[:, None] - side).square() for side in sides)
    distance = (rows[:, None, :, None] + columns[None, :, None, :]).reshape(visible[0].numel(), -1)
    return eps * distance - salience.flatten(1)[:, :, None] * visible.flatten(1)[:, None, :]


def assign_blocks(cost: Tensor, rounds: int) -> Tensor:
    """A place for each block, by bidding: fast on any device, without a wait, and close to the best.

    In each round every block asks for its cheapest place; who gets it is the one to whom it is cheapest, and to the
    others it is dearer by 1 from then on. Blocks left over in the end go to the places left over, in order.

    Args:
        cost: [B, N, N]: blocks, places.
        rounds: Number of rounds, >= 1.

    Returns:
        The block at each place, a permutation of N for each image, [B, N] int64.
    """
    cost = cost.clone()
    order = torch.arange(cost.shape[1], device=cost.device).expand(cost.shape[:2])
    for _ in range(rounds):
        bid, wanted = cost.min(2)
        least = torch.full_like(bid, torch.inf).scatter_reduce(1, wanted, bid, "amin")
        bidders = torch.where(bid == least.gather(1, wanted), order, cost.shape[1])
        winner = torch.full_like(order, cost.shape[1]).scatter_reduce(1, wanted, bidders, "amin")
        won = winner.gather(1, wanted) == order
        cost.scatter_(2, wanted[..., None], (bid + ~won)[..., None])
    empty = winner == cost.shape[1]
    left_over, vacant = (flags.long().argsort(dim=1, stable=True) for flags in (won, ~empty))
    return torch.where(empty, torch.empty_like(order).scatter(1, vacant, left_over), winner)


def move_blocks(images: Tensor, source: Tensor, rows: int, columns: int) -> Tensor:
    """Images of which each place shows the block that was assigned to it.

    Args:
        images: [B, C, H, W], with sides that rows and columns divide.
        source: The block at each place, [B, rows * columns].
        rows, columns: Of blocks.

    Returns:
        [B, C, H, W] in the memory format of the images.
    """
    blocks = images.unflatten(3, (columns, -1)).unflatten(2, (rows, -1)).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    moved = blocks[torch.arange(len(images), device=images.device)[:, None], source]
    moved = moved.unflatten(1, (rows, columns)).permute(0, 3, 1, 4, 2, 5).reshape(images.shape)
    return torch.empty_like(images).copy_(moved)
