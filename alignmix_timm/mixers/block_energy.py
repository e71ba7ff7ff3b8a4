"""The energy of PuzzleMix's mask: saliency that is hidden, borders between images, and how much of each is shown."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_COST = 1000  # per block: costs are whole numbers of 1 / (1000 * n ** 2)
_FORBIDDEN = 2**24  # more than the cost of any labelling without it, for 64 blocks a side


def block_shares(saliency: Tensor, rows: int, columns: int) -> Tensor:
    """Share of each block in the saliency of its image, [B, rows, columns]; uniform where there is none.

    Args:
        saliency: [B, H, W] >= 0, with sides that rows and columns divide.
        rows, columns: Of blocks.
    """
    sums = F.avg_pool2d(saliency, (saliency.shape[1] // rows, saliency.shape[2] // columns))
    total = sums.sum((1, 2), keepdim=True)
    return torch.where(total == 0, 1 / (rows * columns), sums / total)


def seams(images: Tensor, partners: Tensor, n: int, neighbours: int) -> Tensor:
    """Mean differences of pixels at the border between each block and the one below.

    Args:
        images, partners: [B, C, H, W], with sides that n divides.
        n: Blocks on a side.
        neighbours: Pixels on a side of the squares whose means are compared, at most; they divide the blocks.

    Returns:
        [2, 2, B, n - 1, n]: image above (0 the image, 1 its partner), image below, batch, block above.
    """
    sides = [images.shape[2] // n, images.shape[3] // n]
    pool = [max(size for size in range(1, min(neighbours, side) + 1) if side % size == 0) for side in sides]
    height = sides[0] // pool[0]
    both = [F.avg_pool2d(one.float(), pool) for one in (images, partners)]
    pairs = [(above[:, :, height - 1 : -1 : height], below[:, :, height::height]) for above in both for below in both]
    found = [(above - below).abs().mean(1).unflatten(2, (n, -1)).mean(3) for above, below in pairs]
    return torch.stack(found).unflatten(0, (2, 2))


def energy_terms(
    shares: Tensor,
    partner_shares: Tensor,
    down: Tensor,
    right: Tensor,
    lam: Tensor,
    beta: float,
    gamma: float,
    eta: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The energy of the mask, in units of :data:`_COST` for each block (section 4.1).

    The label k of a block says that k / 2 of it show the image and the rest its partner. A label costs the saliency
    that it hides, a prior by which it is k with the binomial probability of two trials at lam, and, between neighbours,
    the differences of pixels where both meet.

    Args:
        shares, partner_shares: Saliency of the blocks, each summing to 1 over them, [B, n, n].
        down, right: :func:`seams`, [2, 2, B, n - 1, n] and [2, 2, B, n, n - 1].
        lam: Share of the image, [B].
        beta, gamma, eta: See :class:`PuzzleMix`.

    Returns:
        As :func:`alignmix_timm.mixers.graph_cut.best_labels` takes them, but not rounded.
    """
    n = shares.shape[1]
    own, other = partner_shares.clone(), shares.clone()  # what it costs to show the image: the partner is hidden
    weights = []
    for seam, axis in ((gamma * beta / (16 * n) * down, 1), (gamma * beta / (16 * n) * right, 2)):
        (own_own, own_other), (other_own, other_other) = seam
        first, second = (slice(None),) * axis + (slice(-1),), (slice(None),) * axis + (slice(1, None),)
        own[first] += (own_own + own_other) / 2
        other[first] += (other_own + other_other) / 2
        own[second] += (own_own + other_own) / 2
        other[second] += (own_other + other_other) / 2
        weight = (own_other + other_own - own_own - other_other) / 2 + beta / (16 * n)
        weights.append((_COST * n**2 * weight).clamp(0, _FORBIDDEN))
    one, zero = lam.log(), (1 - lam).log()
    prior = -torch.stack([2 * zero, math.log(2) + zero + one, 2 * one], 1).clamp(min=-1e30)
    prior = (_COST * eta * (prior - prior.amin(1, keepdim=True))).clamp(max=_FORBIDDEN)
    hidden = (_COST * n**2 * torch.stack([other, (own + other) / 2, own], 3)).clamp(max=_FORBIDDEN)
    return hidden + prior[:, None, None], weights[0], weights[1]
