"""Intervals of means of a few runs, by Student's t."""

import statistics
from collections.abc import Sequence
from typing import NamedTuple

from scipy import stats


class Estimate(NamedTuple):
    """A mean of ``size`` values, with half of its 95 % interval, None of a single value."""

    mean: float
    half: float | None
    size: int

    @property
    def sign(self) -> int:
        """1 or -1 where the interval lies above or below zero, else 0."""
        if self.half is None or abs(self.mean) <= self.half:
            return 0
        return 1 if self.mean > 0 else -1

    def __str__(self) -> str:
        return f"{self.mean:.2f}" + ("" if self.half is None else f" ± {self.half:.2f}")


def estimate(values: Sequence[float]) -> Estimate | None:
    """The mean; None of no values."""
    if not values:
        return None
    mean, count = statistics.mean(values), len(values)
    if count == 1:
        return Estimate(mean, None, 1)
    half = float(stats.t.ppf(0.975, count - 1)) * statistics.stdev(values) / count**0.5
    return Estimate(mean, half, count)
