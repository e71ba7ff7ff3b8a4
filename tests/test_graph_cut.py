"""The exact graph cut: against all labellings, against alpha-beta swaps, and against the clock.

python tests/test_graph_cut.py    # prints the energies of alpha-beta swaps, where gco-wrapper is installed
"""

import itertools
import statistics
import time

import numpy as np
import pytest

from alignmix_timm.mixers.graph_cut import MOST, best_labels

Problem = tuple[np.ndarray, np.ndarray, np.ndarray]


def problem(count: int, rows: int, columns: int, seed: int) -> Problem:
    """Costs as those of PuzzleMix for random saliency, borders and lam, in its units."""
    rng, cells = np.random.default_rng(seed), rows * columns
    first, second = (
        shares / shares.sum((1, 2), keepdims=True) for shares in rng.random((2, count, rows, columns)) ** 3
    )
    lam = rng.random((count, 1, 1))
    prior = [-0.2 / cells * np.log(chance) for chance in ((1 - lam) ** 2, 2 * lam * (1 - lam), lam**2)]
    unary = np.stack([first, (first + second) / 2, second], -1) + np.stack(prior, -1)
    weights = 1.2 / 16 / cells**0.5 * (1 + 0.5 * rng.uniform(-1, 1, (2, count, rows, columns)))
    scaled = [(1000 * cells * one).astype(np.int64) for one in (unary, *weights)]
    return scaled[0], scaled[1][:, :-1], scaled[2][:, :, :-1]


def energies(labels: np.ndarray, unary: np.ndarray, down: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Four times the energy of each of some labellings [L, R, C] of one grid, a whole number."""
    rows, columns = np.indices(labels.shape[1:])
    own = unary[rows, columns, labels].sum((1, 2))
    return 4 * own + (down * np.diff(labels, axis=1) ** 2).sum((1, 2)) + (right * np.diff(labels) ** 2).sum((1, 2))


def found(costs: Problem) -> list[int]:
    labels = best_labels(*costs)
    return [int(energies(one[None], *grid)[0]) for one, *grid in zip(labels, *costs, strict=True)]


@pytest.mark.parametrize("kind", ["images", "wild", "flat", "forbidden"])
@pytest.mark.parametrize(("rows", "columns"), [(3, 3), (2, 4)])
def test_no_labelling_has_less_energy(kind: str, rows: int, columns: int) -> None:
    """Of all that there are."""
    rng = np.random.default_rng(1)
    unary, down, right = problem(24, rows, columns, 0)
    if kind != "images":
        unary = rng.integers(-50, 50, unary.shape)
        down, right = (rng.integers(0, 40, weight.shape) for weight in (down, right))
    if kind == "flat":
        unary, down = unary * 0 + 7, down * 0
    if kind == "forbidden":
        unary[..., 1] = np.where(rng.random(unary.shape[:-1]) < 0.5, MOST - 50, unary[..., 1])
        down[:] = MOST
    every = np.array(list(itertools.product(range(3), repeat=rows * columns))).reshape(-1, rows, columns)
    least = [int(energies(every, *grid).min()) for grid in zip(unary, down, right, strict=True)]
    assert found((unary, down, right)) == least


def test_each_grid_is_cut_for_itself() -> None:
    """However many there are, in one graph or several."""
    costs = problem(70, 8, 8, 2)  # more than fit in one
    one_by_one = [best_labels(*(array[row : row + 1] for array in costs)) for row in range(70)]
    assert np.array_equal(best_labels(*costs), np.concatenate(one_by_one))


SWAPS = {
    4: [65245, 62482, 54067, 54854, 54946, 64214, 57440, 63626, 62474, 51219, 62763, 50071],
    8: [206035, 239279, 221675, 246371, 253787, 220891, 238896, 246446, 221792, 226524, 257554, 217179],
    16: [
        *(1042300, 1017691, 1051901, 1052230, 1038001, 1073902),
        *(1083829, 1046846, 1028945, 1060976, 1051903, 1018652),
    ],
}


def swaps(n: int) -> list[int]:
    """The energies that alpha-beta swaps reach."""
    import gco

    smooth = np.array([[0, 1, 4], [1, 0, 1], [4, 1, 0]], np.int32)
    result = []
    for unary, down, right in zip(*problem(12, n, n, n), strict=True):
        costs = (np.ascontiguousarray(one, np.int32) for one in (4 * unary, smooth, down, right))
        labels = gco.cut_grid_graph(*costs, algorithm="swap").reshape(1, n, n)
        result.append(int(energies(labels, unary, down, right)[0]))
    return result


@pytest.mark.parametrize("n", SWAPS)
def test_energies_are_not_above_those_of_swaps(n: int) -> None:
    """As the paper's code takes, on a recorded set: see above."""
    gains = np.array(SWAPS[n]) - np.array(found(problem(12, n, n, n)))
    assert gains.min() >= 0
    assert n < 16 or gains.max() > 0


@pytest.mark.slow
def test_a_batch_is_cut_in_half_a_second() -> None:
    """128 images of 16 x 16 blocks, beside a product of matrices on the same thread."""
    costs, matrix = problem(128, 16, 16, 5), np.random.default_rng(0).random((1024, 1024), np.float32)
    cuts, products = [], []
    for _ in range(9):
        for times, work in ((cuts, lambda: best_labels(*costs)), (products, lambda: matrix @ matrix)):
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
    cut, product = statistics.median(cuts), statistics.median(products)
    print(f"cut {1000 * cut:.0f} ms, {cut / product:.1f} products of 1024 x 1024 matrices of {1000 * product:.0f} ms")
    assert cut < 0.5


if __name__ == "__main__":
    print({n: swaps(n) for n in (4, 8, 16)})
