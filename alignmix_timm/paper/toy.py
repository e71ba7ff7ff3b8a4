"""The toy example of figure 2: two sets of points in the plane instead of features, aligned in both directions."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..functional import align
from ..sinkhorn import EPSILON, assign

POINTS = 16


class ToyAlignment(NamedTuple):
    """Two sets of points x and y, [N, 2], the paper's A and A' transposed.

    Attributes:
        x, y: The points.
        cost: Squared distances, [N, N] (eq. 7).
        assignment: R, [N, N]; rows sum to 1.
        x_aligned: Points of y moved to the points of x they correspond to, [N, 2] (eq. 10).
        y_aligned: Points of x moved to those of y (eq. 11).
    """

    x: Tensor
    y: Tensor
    cost: Tensor
    assignment: Tensor
    x_aligned: Tensor
    y_aligned: Tensor


def toy_alignment(epsilon: float = EPSILON, num_iters: int = 100, seed: int = 0) -> ToyAlignment:
    """A noisy circle and a noisy line across it, aligned with this epsilon: see :func:`alignmix_timm.assign`."""
    generator = torch.Generator().manual_seed(seed)
    angle = torch.arange(POINTS) * (2 * math.pi / POINTS)
    along = torch.linspace(-1.5, 1.5, POINTS)
    noise = 0.12 * torch.randn(2, POINTS, 2, generator=generator)
    x = torch.stack([angle.cos(), angle.sin()], 1) + noise[0]
    y = torch.stack([along + 0.3, along / 2], 1) + noise[1]
    there, back = (assign(*pair, epsilon, num_iters).assignment for pair in ((x[None], y[None]), (y[None], x[None])))
    cost = torch.cdist(x, y).square()
    return ToyAlignment(x, y, cost, there[0], align(y[None], there)[0], align(x[None], back)[0])
