"""The labelling problem of Co-Mixup: coordinate descent over the outputs, and local search within each.

All is batched over P independent problems, runs on the device of its tensors, and never waits for it. A problem has m
inputs, m outputs and K = n * n cells, the cells of a square grid row by row.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

PAIR_BONUS = 5e-4  # by which a cell that shows two inputs costs less than their mean, as in the released code
PAIR_DISTANCE = 0.25  # between such a cell and one that shows either of the two; other differences count 1
STARTS = 3  # of the local search, beside the best label of each cell: the best labels for all cells
SWEEPS = 4  # of the local search; hardly any grid of 4 x 4 cells changes after them


class Problem(NamedTuple):
    """What to show in the cells of m outputs.

    The objective has three parts: the cost of what each cell shows; ``beta / K`` for each two adjacent cells that show
    different inputs (see ``PAIR_DISTANCE``); and, for over-use, ``gamma / K * sum_j sum_i o_ji q_ji``. There o_ji is
    the number of cells in which output j shows input i, and q_ji that in which other outputs show inputs like i,
    ``sum_l A_il (sum_k o_kl - o_jl)``.

    Attributes:
        cost: Of showing each input in each cell, [P, K, m].
        compatibility: A, symmetric, [P, m, m].
        beta, gamma: See above, >= 0.
        tau: An output that is labelled anew pays for an input only where q is above ``tau * K``. The objective itself
            has no threshold.
    """

    cost: Tensor
    compatibility: Tensor
    beta: float
    gamma: float
    tau: float

    def used(self, counts: Tensor) -> Tensor:
        """Cells in which others show inputs like each: q from o, both [P, m, m]."""
        return (counts.sum(1, keepdim=True) - counts) @ self.compatibility

    def overuse(self, counts: Tensor) -> Tensor:
        """The third part of the objective, [P]."""
        return self.gamma / self.cost.shape[1] * (counts * self.used(counts)).sum((1, 2))


def assign_cells(problem: Problem, start: Tensor, sweeps: int = 4, resolve: bool = True) -> Tensor:
    """Find what each cell of each output shows.

    Each output in turn is labelled anew, the others as they are, and keeps the new labels unless the objective rises:
    because of the threshold it can, and the released code keeps them all the same. From the second sweep on, a cell can
    show two of the three inputs that its output shows most, each by half.

    Args:
        problem: See there.
        start: Input that each cell shows at first, [P, m, K] int64.
        sweeps: Over the outputs, >= 0.
        resolve: Let outputs that show the same inputs before the last sweep pay ``gamma / K`` in it for each cell with
            the first of these (the earlier output) or the second (the later one).

    Returns:
        Share of each input in each cell of each output, 0, 0.5 or 1, [P, m, K, m].
    """
    inputs, cells = problem.cost.shape[2], problem.cost.shape[1]
    scale, grid = problem.gamma / cells, _grid(problem.cost)
    shown = F.one_hot(start, inputs).to(problem.cost)
    counts = shown.sum(2)
    kick = torch.zeros_like(counts)
    own = _labels(problem, grid, None).energy(start)  # of each output without over-use, [P, m]
    penalty = problem.overuse(counts)
    for sweep in range(sweeps):
        for output in range(inputs):
            now = counts[:, output]
            labels = _labels(problem, grid, now if sweep else None)
            used = problem.used(counts)[:, output]
            dear = scale * (2 * torch.where(used > problem.tau * cells, used, 0) + kick[:, output])
            found = labels.dearer(dear).search()
            looks = labels.shares.gather(1, found.unsqueeze(2).expand(-1, -1, inputs))
            changed = counts.clone()
            changed[:, output] = looks.sum(1)
            energy, paid = labels.energy(found.unsqueeze(1))[:, 0], problem.overuse(changed)
            kicked = scale * (kick[:, output] * (changed[:, output] - now)).sum(1)
            keep = energy + paid + kicked <= own[:, output] + penalty
            shown[:, output] = torch.where(keep[:, None, None], looks, shown[:, output])
            own[:, output] = torch.where(keep, energy, own[:, output])
            counts = torch.where(keep[:, None, None], changed, counts)
            penalty = torch.where(keep, paid, penalty)
        if resolve and sweep == sweeps - 2:
            kick = _kick(counts > 0).to(counts)
    return shown


class _Grid(NamedTuple):
    """Which cells are neighbours, [K, K] of 0 and 1, and which have the first colour of a checkerboard, [K] bool."""

    near: Tensor
    even: Tensor


def _grid(cost: Tensor) -> _Grid:
    side = math.isqrt(cost.shape[1])
    number = torch.arange(cost.shape[1], device=cost.device)
    row, column = number // side, number % side
    apart = (row[:, None] - row).abs() + (column[:, None] - column).abs()
    return _Grid((apart == 1).to(cost), (row + column) % 2 == 0)


class _Labels(NamedTuple):
    """What a cell of one output can show.

    Attributes:
        shares: Of the inputs in each label, [P, L, m].
        cost: Of each label in each cell, [P, K, L].
        weight: Of the distance of two adjacent cells.
        distance: Between labels, [P, L, L].
        grid: Of the cells.
    """

    shares: Tensor
    cost: Tensor
    weight: float
    distance: Tensor
    grid: _Grid

    def dearer(self, by: Tensor) -> "_Labels":
        """The same, each input dearer in every cell, [P, m]."""
        return self._replace(cost=self.cost + (self.shares @ by.unsqueeze(2)).mT)

    def energy(self, labels: Tensor) -> Tensor:
        """Cost and distances of S labellings of the cells, [P, S, K] to [P, S]."""
        own = self.cost.unsqueeze(1) + self.weight / 2 * self._near(labels)
        return own.gather(3, labels.unsqueeze(3)).sum((2, 3))

    def search(self) -> Tensor:
        """The best found labelling, [P, K]: from each start the cells take their best labels, half of them at a time.

        The two halves are the colours of a checkerboard, so neighbours never change together and the energy only falls.
        """
        cells = self.cost.shape[1]
        constant = self.cost.sum(1).argsort(dim=1, stable=True)[:, :STARTS, None].expand(-1, -1, cells)
        labels = torch.cat([self.cost.argmin(2).unsqueeze(1), constant], 1)
        for half in (self.grid.even, ~self.grid.even) * SWEEPS:
            better = torch.add(self.cost.unsqueeze(1), self._near(labels), alpha=self.weight).argmin(3)
            labels = torch.where(half, better, labels)
        best = self.energy(labels).argmin(1)
        return labels.gather(1, best[:, None, None].expand(-1, 1, cells))[:, 0]

    def _near(self, labels: Tensor) -> Tensor:
        """Distance of each label from the neighbours of each cell, [P, S, K] to [P, S, K, L]."""
        problem = torch.arange(len(labels), device=labels.device)[:, None, None]
        return self.grid.near @ self.distance[problem, labels]


def _labels(problem: Problem, grid: _Grid, count: Tensor | None) -> _Labels:
    """The inputs; and, given in how many cells an output shows each, [P, m], the pairs of the three it shows most."""
    cost, weight = problem.cost, problem.beta / problem.cost.shape[1]
    inputs = cost.shape[2]
    single = torch.eye(inputs, device=cost.device).expand(len(cost), -1, -1)
    if count is None or inputs == 1:
        return _Labels(single, cost, weight, 1 - single, grid)
    most, which = count.sort(dim=1, descending=True, stable=True)
    first, second = torch.triu_indices(min(3, inputs), min(3, inputs), 1, device=cost.device)
    both = (F.one_hot(which[:, first], inputs) + F.one_hot(which[:, second], inputs)).to(cost)  # [P, pairs, m]
    possible = (most[:, second] > 0).unsqueeze(1)  # the second of a pair is shown no more than the first
    halves = torch.where(possible, cost @ both.mT / 2 - PAIR_BONUS, math.inf)
    between = 1 - (1 - PAIR_DISTANCE) * both
    among = (1 - torch.eye(len(first), device=cost.device)).expand(len(cost), -1, -1)
    distance = torch.cat([torch.cat([1 - single, between.mT], 2), torch.cat([between, among], 2)], 1)
    return _Labels(torch.cat([single, both / 2], 1), torch.cat([cost, halves], 2), weight, distance, grid)


def _kick(shows: Tensor) -> Tensor:
    """Where outputs that show the same two or more inputs have to pay, from and to [P, m, m] bool."""
    same = (shows.unsqueeze(2) == shows.unsqueeze(1)).all(3) & (shows.sum(2) > 1).unsqueeze(2)
    place = shows.cumsum(2) * shows
    earlier, later = same.triu(1).any(2, keepdim=True), same.tril(-1).any(2, keepdim=True)
    return (earlier & (place == 1)) | (later & (place == 2))
