"""Entropic optimal transport between two sets of features: cost, batched Sinkhorn, assignment.

AlignMix (https://arxiv.org/abs/2103.15375), section 3.2, equations 7 to 9 and Algorithm 1, lines 21 to 23.
Tokens are [B, N, D] and [B, M, D]; marginals are uniform (a = 1/N, b = 1/M); the plan has mass 1. Nothing here is
differentiable: the paper takes the plan as a constant (line 23). Everything runs in fp32, whatever the input's dtype,
autocast state or TF32 setting, and never waits for the device.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

CostScale = Literal["rms", "raw"]

EPSILON, NUM_ITERS = 0.2, 20  # the defaults
START = 0.5  # epsilon is lowered from this share of the scale of the cost, in even steps of its logarithm

_TINY = 1e-30  # keeps all-zero costs from being divided by 0
_STAGE = 5  # iterations a stage; each stage rebuilds the kernel exp(-cost/epsilon) in log domain
_RELAXATION = 1.6  # over-relaxation of the scaling factors; 1 would be plain Sinkhorn
_CPU_BLOCK = 2**18  # elements of one map that are centred at a time on a CPU
_LIMIT = 1e12  # the scaling factors stay within [1/limit, limit]; the next stage goes on from there


@dataclass(frozen=True)
class Transport:
    """The solution of B transport problems.

    Attributes:
        assignment: R = N * plan, [B, N, M] fp32. Rows sum to 1; columns sum to N/M once Sinkhorn has converged.
        f: Dual potential of the rows, [B, N], of the cost ``-2 <x_i - mean(x), y_j - mean(y)>`` (divided by the
            pair's root mean square where ``cost_scale="rms"``): ``assignment = exp((f + g - cost) / epsilon) / M``.
        g: Dual potential of the columns, [B, M].
    """

    assignment: Tensor
    f: Tensor
    g: Tensor

    @property
    def marginal_error(self) -> Tensor:
        """Mean relative error of the column sums of each pair, [B]; 0 is converged. The rows are exact."""
        num_rows, num_cols = self.assignment.shape[-2:]
        return (self.assignment.sum(-2) * (num_cols / num_rows) - 1).abs().mean(-1)

    @property
    def effective_correspondences(self) -> Tensor:
        """Mean over rows of exp(entropy of the row), [B]: 1 is one-to-one, M is a plain average."""
        return torch.special.entr(self.assignment).sum(-1).exp().mean(-1)


def assign(
    x: Tensor,
    y: Tensor,
    epsilon: float = EPSILON,
    num_iters: int = NUM_ITERS,
    cost_scale: CostScale = "rms",
) -> Transport:
    """Find the tokens of ``y`` that correspond to each token of ``x`` (AlignMix eq. 7 to 9; Algorithm 1, 21 to 23).

    Args:
        x: Tokens that keep their positions, [B, N, D], any floating dtype, norms from 1e-3 to 1e4.
        y: Tokens that are matched to them, [B, M, D].
        epsilon: Entropic regularisation, in [1e-2, 10]; with ``cost_scale="rms"`` a share of the root mean square of
            that part of the pair's cost that decides the plan: see :func:`centred_cost`. How the default was chosen:
            ``recipes/choose_epsilon.py``.
        num_iters: Iterations, >= 1; each normalises columns and rows once. The first half lowers epsilon.
        cost_scale: ``"rms"`` divides the cost of each pair by that root mean square: neither the mean of a map's
            features nor their norms change the assignment. ``"raw"`` is the paper's literal setting (with epsilon =
            0.1 and num_iters = 100).

    Returns:
        The solution; no gradient flows through it. Constant maps give the uniform assignment. A pair with a non-finite
        feature is NaN, and no other pair is.

    Raises:
        ValueError: shapes that are not [B, N, D] and [B, M, D], or N, M or D of 0; epsilon <= 0, num_iters < 1, unknown
            cost_scale.
    """
    if x.ndim != 3 or y.ndim != 3 or x.shape[0] != y.shape[0] or x.shape[2] != y.shape[2]:
        raise ValueError(f"x and y must be tokens [B, N, D] and [B, M, D], got {tuple(x.shape)} and {tuple(y.shape)}.")
    if 0 in (x.shape[1], y.shape[1], x.shape[2]):
        raise ValueError(
            f"x and y must be tokens with N, M and D of at least 1, got {tuple(x.shape)} and {tuple(y.shape)}."
        )
    check_options(epsilon, num_iters, cost_scale)
    return Transport(*_assign(x.detach(), y.detach(), epsilon, num_iters, cost_scale == "rms"))


def check_options(epsilon: float, num_iters: int, cost_scale: str) -> None:
    """Raise ValueError for options that ``assign`` cannot take."""
    if not 0 < epsilon < math.inf:
        rule, default = (
            "finite" if epsilon == math.inf else "> 0",
            f"Default {EPSILON}; the paper's, for raw costs, 0.1.",
        )
        raise ValueError(f"epsilon must be {rule}, got {epsilon}. {default}")
    if num_iters < 1:
        raise ValueError(f"num_iters must be >= 1, got {num_iters}. The default is {NUM_ITERS}.")
    check_cost_scale(cost_scale)


def check_cost_scale(cost_scale: str) -> None:
    """Raise ValueError for another scale than ``"rms"`` or ``"raw"``."""
    if cost_scale == "mean":
        raise ValueError(
            "cost_scale 'mean' was removed: it divided by the norms of the features as well. Use 'rms', with epsilon "
            f"{EPSILON} by default; python -m alignmix_timm.points MODEL --images FOLDER prints how many positions "
            "correspond at an epsilon."
        )
    if cost_scale not in get_args(CostScale):
        raise ValueError(f"cost_scale must be one of {get_args(CostScale)}, got {cost_scale!r}.")


# One opaque operator for torch.compile: the precision switches inside must take effect when it runs, not when traced.
@torch.library.custom_op("alignmix_timm::assign", mutates_args=())
def _assign(x: Tensor, y: Tensor, epsilon: float, num_iters: int, relative: bool) -> tuple[Tensor, Tensor, Tensor]:
    with _full_precision(x.device):
        cost = centred_cost(x, y)
        scale = cost.square().mean((1, 2), keepdim=True).sqrt_().clamp_min_(_TINY)
        unit = torch.ones_like(scale) if relative else scale
        return solve(cost.div_(scale), epsilon / unit, unit, num_iters)


@_assign.register_fake
def _(x: Tensor, y: Tensor, epsilon: float, num_iters: int, relative: bool) -> tuple[Tensor, Tensor, Tensor]:
    (batch, num_rows, _), num_cols = x.shape, y.shape[1]
    new = x.new_empty
    dtype = torch.float32
    return (
        new((batch, num_rows, num_cols), dtype=dtype),
        new((batch, num_rows), dtype=dtype),
        new((batch, num_cols), dtype=dtype),
    )


def centred_cost(x: Tensor, y: Tensor) -> Tensor:
    """The part of the squared distances that the plan depends on, by one matrix product, in fp32.

    ``||x_i - y_j||^2`` is ``-2 <x_i - mean(x), y_j - mean(y)>`` plus a term of i and a term of j. Terms of one index
    move the potentials, not the plan. Without them nothing is lost to rounding where features are large and alike.

    Returns:
        ``-2 <x_i - mean(x), y_j - mean(y)>``, [B, N, M].
    """
    (batch, num_rows, dim), num_cols = x.shape, y.shape[1]
    cost = x.new_empty((batch, num_rows, num_cols), dtype=torch.float32)
    # On a CPU, a few pairs at a time: the centred copies then stay in the cache.
    step = max(1, _CPU_BLOCK // (max(num_rows, num_cols) * dim)) if x.device.type == "cpu" else batch
    for pairs in (slice(start, start + step) for start in range(0, batch, max(1, step))):
        x_part, y_part = _centred(x[pairs]), _centred(y[pairs])
        torch.baddbmm(cost[pairs], x_part, y_part.mT, beta=0, alpha=-2, out=cost[pairs])
    return cost


def _centred(tokens: Tensor) -> Tensor:
    """Tokens minus their mean, in fp32; twice, because the mean of large features is rounded as they are."""
    centred = tokens.float() - tokens.mean(1, keepdim=True, dtype=torch.float32)
    return centred.sub_(centred.mean(1, keepdim=True))


def solve(
    cost: Tensor, epsilon: Tensor, unit: Tensor, num_iters: int, start: float = START
) -> tuple[Tensor, Tensor, Tensor]:
    """Sinkhorn-Knopp (AlignMix eq. 9) with epsilon scaling and over-relaxation, on centred costs of scale 1.

    A stage absorbs the scaling factors so far into the potential g, builds the kernel K with log-domain row
    normalisation, and iterates u = 1 / (K v), v = 1 / (K^T u) by matrix products, over-relaxed in log scale
    (Thibault et al., 2021). Epsilon falls geometrically during the first half of the stages.

    Args:
        cost: [B, N, M] fp32, divided by its scale.
        epsilon: [B, 1, 1], divided by the same scale.
        unit: [B, 1, 1], by which potentials are multiplied on return.
        num_iters: Total number of iterations.
        start: The epsilon of the first stage, where it is larger; of the scaled cost.

    Returns:
        Assignment [B, N, M] with rows normalised last, potentials f [B, N] and g [B, M].
    """
    first = epsilon.clamp_min(start)
    num_stages = -(-num_iters // _STAGE)
    columns_per_row, square = cost.shape[2] / cost.shape[1], cost.shape[1] == cost.shape[2]
    g = cost.mean(1, keepdim=True)  # exact where the rows are alike
    for stage in range(num_stages):
        share = min(1.0, stage / (num_stages // 2)) if num_stages > 1 else 1.0
        stage_epsilon = first ** (1 - share) * epsilon**share
        kernel = torch.softmax((g - cost).div_(stage_epsilon), 2)
        u = cost.new_ones(cost.shape[0], 1, cost.shape[1])
        v = torch.ones_like(g)
        for iteration in range(min(_STAGE, num_iters - stage * _STAGE)):
            if iteration > 0:  # the softmax has just normalised the rows
                u = _relax(u, torch.bmm(v, kernel.mT))
            v = _relax(v, torch.bmm(u, kernel) if square else torch.bmm(u, kernel).mul_(columns_per_row))
        g = g + stage_epsilon * v.log()
        del kernel
    logits = (g - cost).div_(epsilon)
    f = -epsilon * (torch.logsumexp(logits, 2, keepdim=True) - math.log(cost.shape[2]))
    return torch.softmax(logits, 2), (unit * f).squeeze(2), (unit * g).squeeze(1)


def _relax(scaling: Tensor, marginal: Tensor) -> Tensor:
    """Move a scaling factor past the value that would normalise its marginal, by the relaxation exponent."""
    update = marginal.mul_(scaling).pow_(-_RELAXATION).mul_(scaling)
    return update.clamp_(1 / _LIMIT, _LIMIT)  # 0 ** -x is inf: a marginal that underflowed ends at the limit


@contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
    """Autocast off, and matrix products in true fp32 (no TF32, no bf16), whatever the user has set."""
    backends = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]
    saved = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for backend, precision in zip(backends, saved, strict=True):
            inherited = precision == torch.backends.fp32_precision  # type: ignore[attr-defined]
            backend.fp32_precision = "none" if inherited else precision
