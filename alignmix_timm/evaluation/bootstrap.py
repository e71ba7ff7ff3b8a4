"""Intervals of means, by the bootstrap."""

from typing import NamedTuple

import numpy as np


class Interval(NamedTuple):
    """A mean, and the bounds of its 95 % interval."""

    mean: float
    low: float
    high: float


def bootstrap(values: np.ndarray, seed: int = 0, resamples: int = 10_000) -> list[Interval]:
    """Means over pairs of each column of [B, K], and their 95 % percentile intervals over pairs drawn again."""
    rng, count = np.random.default_rng(seed), len(values)
    means = [values[rng.integers(0, count, count)].mean(0) for _ in range(resamples)]
    bounds = np.quantile(means, (0.025, 0.975), axis=0)
    return [Interval(*map(float, column)) for column in zip(values.mean(0), *bounds, strict=True)]
