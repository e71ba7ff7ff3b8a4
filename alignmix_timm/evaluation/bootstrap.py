"""Intervals of means, by the bootstrap."""

from typing import NamedTuple

import numpy as np

FEWEST_MEMBERS = 10  # with fewer, means of resampled pairs vary too little to cover the true one
_AT_ONCE = 500  # resamples


class Interval(NamedTuple):
    """A mean, and the bounds of its 95 % interval; NaN where there is none."""

    mean: float
    low: float
    high: float


def bootstrap(values: np.ndarray, seed: int = 0, resamples: int = 10_000) -> list[Interval]:
    """Means over pairs of each column of [B, K], and their 95 % percentile intervals over pairs drawn again."""
    rng, count = np.random.default_rng(seed), len(values)
    means = np.array([values[rng.integers(0, count, count)].mean(0) for _ in range(resamples)])
    return _intervals(values, means)


def bootstrap_dyads(values: np.ndarray, pairs: np.ndarray, seed: int = 0, resamples: int = 10_000) -> list[Interval]:
    """As :func:`bootstrap`, of pairs that share members: the members are drawn again, not the pairs.

    A pair counts as often as its two members were drawn, multiplied (Owen, The pigeonhole bootstrap, Annals of Applied
    Statistics 1, 2007). Resamples without a pair are left out. The intervals are rather too wide than too narrow, most
    where each member is in few pairs. There are none for fewer than :data:`FEWEST_MEMBERS`.

    Args:
        values: Of each pair, [B, K].
        pairs: Numbers of its two members, which differ, [B, 2] int.
        seed: Of the resamples.
        resamples: How many.
    """
    rng = np.random.default_rng(seed)
    members, places = np.unique(pairs, return_inverse=True)
    first, second = places.reshape(-1, 2).T
    if len(members) < FEWEST_MEMBERS:
        return [Interval(float(mean), np.nan, np.nan) for mean in values.mean(0)]
    means = []
    for start in range(0, resamples, _AT_ONCE):
        count = min(_AT_ONCE, resamples - start)
        drawn = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), count)
        weights = (drawn[:, first] * drawn[:, second]).astype(np.float64)
        weights = weights[weights.any(1)]
        means.append(weights @ values / weights.sum(1, keepdims=True))
    return _intervals(values, np.concatenate(means))


def _intervals(values: np.ndarray, means: np.ndarray) -> list[Interval]:
    """Of the columns of values, by their means over resamples."""
    bounds = np.quantile(means, (0.025, 0.975), axis=0)
    return [Interval(*map(float, column)) for column in zip(values.mean(0), *bounds, strict=True)]
