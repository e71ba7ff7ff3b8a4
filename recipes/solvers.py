"""The alignment operator and its rivals, each from tokens to an assignment whose rows sum to 1.

All but the former default solve the same problem. They get the scale of our cost as a gift: its time is not counted.
"""

from collections.abc import Callable
from functools import partial

import geomloss
import torch
from ot.batch import dist_batch, solve_batch
from torch import Tensor

from alignmix_timm import assign
from alignmix_timm.sinkhorn import EPSILON, centred_cost, solve

FORMER_EPSILON, FORMER_START = 0.02, 0.125
FORMER_BLOCK = 2**18  # elements of one map that were centred at a time

Solver = Callable[[Tensor, Tensor, Tensor, int], Tensor]  # x, y, scale, iterations -> assignment [B, N, M]


def scale_of(x: Tensor, y: Tensor) -> Tensor:
    """That of our cost, [B, 1, 1]; squared distances that are divided by it give the same plan."""
    return centred_cost(x, y).square().mean((1, 2), keepdim=True).sqrt()


def ours(x: Tensor, y: Tensor, scale: Tensor, iterations: int) -> Tensor:
    return assign(x, y, EPSILON, iterations).assignment


def former_default(x: Tensor, y: Tensor, scale: Tensor, iterations: int) -> Tensor:
    """The same iterations on squared distances that are divided by their mean: until then our default."""
    batch, positions, dim = x.shape
    step = max(1, FORMER_BLOCK // (positions * dim))
    cost = x.new_empty(batch, positions, positions)
    for pairs in (slice(start, start + step) for start in range(0, batch, step)):
        center = (x[pairs].mean(1, keepdim=True) + y[pairs].mean(1, keepdim=True)) / 2
        x_part, y_part = x[pairs] - center, y[pairs] - center
        x_norm, y_norm = (torch.linalg.vecdot(part, part) for part in (x_part, y_part))
        torch.baddbmm(y_norm.unsqueeze(1), x_part, y_part.mT, alpha=-2, out=cost[pairs])
        cost[pairs].add_(x_norm.unsqueeze(2)).clamp_min_(0)
    mean = cost.mean((1, 2), keepdim=True)
    unit = torch.ones_like(mean)
    return solve(cost.div_(mean), FORMER_EPSILON * unit, unit, iterations, FORMER_START)[0]


def pot(x: Tensor, y: Tensor, scale: Tensor, iterations: int, method: str) -> Tensor:
    cost = dist_batch(y, x) / scale  # POT normalises columns last: exchange the two
    plan = solve_batch(cost, EPSILON, max_iter=iterations, tol=0.0, method=method, grad="detach").plan
    return plan.mT * x.shape[1]


def geomloss_sinkhorn(x: Tensor, y: Tensor, scale: Tensor, iterations: int) -> Tensor:
    x, y = x / scale.sqrt(), y / scale.sqrt()
    cost = torch.cdist(x, y).square()
    blur, diameter = (EPSILON / 2) ** 0.5, float(cost.max().sqrt())  # geomloss halves the squared distance
    solver = geomloss.SamplesLoss(
        blur=blur,
        diameter=diameter,
        scaling=(blur / diameter) ** (1 / iterations),
        debias=False,
        potentials=True,
        backend="tensorized",
    )
    _, g = solver(x, y)
    return torch.softmax((2 * g.unsqueeze(1) - cost) / EPSILON, 2)


def log_domain(x: Tensor, y: Tensor, scale: Tensor, iterations: int) -> Tensor:
    return _log_domain(torch.cdist(x, y).square() / scale, iterations)


def broadcast(x: Tensor, y: Tensor, scale: Tensor, iterations: int) -> Tensor:
    """All differences at once, and a test of convergence that reads a value in every iteration."""
    cost = ((x.unsqueeze(2) - y.unsqueeze(1)) ** 2).sum(3)  # B x N x M x D
    return _log_domain(cost / scale, iterations, reads=True)


def _log_domain(cost: Tensor, iterations: int, reads: bool = False) -> Tensor:
    kernel = -cost / EPSILON
    g = torch.zeros_like(kernel[:, :1])
    for _ in range(iterations):
        f = -torch.logsumexp(kernel + g, 2, keepdim=True)
        before, g = g, -torch.logsumexp(kernel + f, 1, keepdim=True)
        if reads and (g - before).abs().max().item() == 0:
            break
    return torch.softmax(kernel + g, 2)


RIVALS: dict[str, Solver] = {
    "former default": former_default,
    "POT batch, log_sinkhorn": partial(pot, method="log_sinkhorn"),
    "POT batch, sinkhorn": partial(pot, method="sinkhorn"),
    "geomloss, tensorized": geomloss_sinkhorn,
    "log-domain loop": log_domain,
    "broadcast cost": broadcast,
}
