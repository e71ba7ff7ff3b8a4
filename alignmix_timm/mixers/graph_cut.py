"""Labellings of grids with three ordered labels and quadratic smoothness, at their exact optimum by one minimum cut."""

from typing import Any

import numpy as np

_CELLS = 2048  # of a call: smaller graphs stay in the cache, fewer calls cost less
_UNCUT = 2**29
MOST = 2**26  # of a cost, so that no capacity overflows


def best_labels(unary: np.ndarray, down: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The labels in {0, 1, 2} of the cells of each grid that minimise its energy.

    The energy is the sum of ``unary[cell, label]`` over the cells, and of ``weight * ((label - neighbour) / 2) ** 2``
    over the pairs of neighbours. It is convex in the differences of labels, so one minimum cut finds the optimum
    (Ishikawa, 2003).

    Args:
        unary: Cost of each label, [B, R, C, 3] integer, at most ``MOST`` above the least of its cell.
        down: Weight between each cell and the one below, [B, R - 1, C] integer in [0, MOST].
        right: Weight between each cell and the next in its row, [B, R, C - 1], likewise.

    Returns:
        [B, R, C] int64.
    """
    step = max(_CELLS // unary[0, ..., 0].size, 1)
    parts = [slice(first, first + step) for first in range(0, len(unary), step)]
    return np.concatenate([_cut(unary[part], down[part], right[part]) for part in parts])


def _cut(unary: np.ndarray, down: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The same, of a few grids side by side in one graph.

    Each cell is two nodes: on the side of the source, the first says that its label is at least 1, the second that it
    is 2. All capacities are four times the costs, which makes them whole numbers.
    """
    from scipy.sparse import coo_array  # here, for it takes long to import
    from scipy.sparse.csgraph import breadth_first_order, maximum_flow

    cells = np.arange(unary[..., 0].size).reshape(unary.shape[:-1])
    source, sink = 2 * cells.size, 2 * cells.size + 1
    cost = 4 * (unary - unary.min(-1, keepdims=True))
    one, two = cells, cells + cells.size
    edges: list[tuple[Any, Any, Any]] = [
        (source, one, cost[..., 0]),
        (one, two, cost[..., 1]),
        (two, one, _UNCUT),
        (two, sink, cost[..., 2]),
    ]
    for here, there, weight in ((cells[:, :-1], cells[:, 1:], down), (cells[:, :, :-1], cells[:, :, 1:], right)):
        for node, neighbour in ((here, there), (there, here)):
            edges.append((node, neighbour, weight))
            edges.append((node + cells.size, neighbour + cells.size, weight))
            edges.append((node + cells.size, neighbour, 2 * weight))
    flat = [[array.ravel() for array in np.broadcast_arrays(*edge)] for edge in edges]
    tails, heads, capacity = (np.concatenate(column) for column in zip(*flat, strict=True))
    graph = coo_array((capacity.astype(np.int32), (tails, heads)), shape=(sink + 1, sink + 1)).tocsr()
    residual = graph - maximum_flow(graph, source, sink, method="dinic").flow
    residual.eliminate_zeros()
    reached = np.zeros(sink + 1, np.int64)
    reached[breadth_first_order(residual, source, return_predecessors=False)] = 1
    return reached[one] + reached[two]
