"""Independent float64 statements of the paper, for the tests."""

import numpy as np
import torch
from torch import Tensor


def sinkhorn_loop(x: np.ndarray, y: np.ndarray, epsilon: float, scale_free: bool = True) -> np.ndarray:
    """Assignment R = r P* of one pair by the paper's equations 7 to 9, in log domain, to a marginal error of 1e-8.

    Scale-free: the cost of equation 7 is divided by the root mean square of what is left of it without row and column
    means.
    """
    cost = ((x[:, None, :].astype(np.float64) - y[None, :, :].astype(np.float64)) ** 2).sum(-1)
    if scale_free:
        cost = cost / scale_of(cost)
    f, g = np.zeros(len(x)), np.zeros(len(y))
    for _ in range(200_000):
        f = -epsilon * _logsumexp((g[None, :] - cost) / epsilon, 1) - epsilon * np.log(len(x))
        g = -epsilon * _logsumexp((f[:, None] - cost) / epsilon, 0) - epsilon * np.log(len(y))
        plan = np.exp((f[:, None] + g[None, :] - cost) / epsilon)
        if np.abs(plan.sum(1) * len(x) - 1).max() < 1e-8:
            return plan * len(x)
    raise AssertionError("the oracle did not converge")


def scale_of(cost: np.ndarray) -> float:
    """Root mean square of a cost [N, M] whose row and column means were removed."""
    return float(np.sqrt(((cost - cost.mean(0) - cost.mean(1, keepdims=True) + cost.mean()) ** 2).mean()))


def _logsumexp(values: np.ndarray, axis: int) -> np.ndarray:
    top = values.max(axis, keepdims=True)
    return (top + np.log(np.exp(values - top).sum(axis, keepdims=True))).squeeze(axis)


def alignmix_loop(x: Tensor, y: Tensor, lam: Tensor, epsilon: float) -> Tensor:
    """Algorithm 1, lines 19 to 26, example by example: x, y are [B, N, D], the paper's A and A' transposed."""
    mixed = []
    for a, a_prime, factor in zip(x.double(), y.double(), lam.double(), strict=True):
        assignment = torch.from_numpy(sinkhorn_loop(a.numpy(), a_prime.numpy(), epsilon))
        aligned = (a_prime.T @ assignment.T).T  # A~ = A' R^T
        mixed.append(factor * a + (1 - factor) * aligned)
    return torch.stack(mixed)


def clustered_tokens(batch: int, tokens: int, dim: int, seed: int) -> Tensor:
    """Features like those of a trained network: clusters that differ in size from image to image, hard to transport."""
    shared = torch.Generator().manual_seed(1234)
    prototypes, directions = torch.randn(8, dim, generator=shared), torch.randn(4, dim, generator=shared)
    generator = torch.Generator().manual_seed(seed)
    share = torch.rand(batch, 8, generator=generator) ** 4
    cluster = torch.multinomial(share, tokens, replacement=True, generator=generator)
    return prototypes[cluster] + 0.3 * torch.randn(batch, tokens, 4, generator=generator) @ directions
