"""How far is blockwise alignment from the full plan on features of a trained network, and what does it save?

    python recipes/compare_blockwise.py

Trains a ResNet-18 on the embedded images, takes its 14 x 14 and 28 x 28 maps at 224 pixels, aligns pairs with the full
plan and blockwise, and prints the difference of the mixed maps (lam = 0.5) as a share of their size, beside that of
mixing without alignment, and the time as a share of that of the full plan.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from statistics import median

from choose_epsilon import features, train
from torch import Tensor

from alignmix_timm import align, assign, mix
from alignmix_timm.alignment import align_blocks, pool_blocks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--pairs", type=int, default=16)
    args = parser.parse_args()
    net, test = train(args.epochs, seed=0)
    for layer in ("layer3", "layer2"):
        x, y = features(net, test, 224, args.pairs, layer)
        side = round(x.shape[1] ** 0.5)
        full, base = timed(partial(fully, x, y))
        print(f"\n{layer}, {side} x {side}, unaligned differs by {difference(x, y, full):.3f}")
        for block in (2, 4):
            found, took = timed(partial(blockwise, x, y, (side, side), block))
            print(f"blocks of {block} x {block}: differs by {difference(x, found, full):.3f}, time {took / base:.2f}")


def fully(x: Tensor, y: Tensor) -> Tensor:
    return align(y, assign(x, y).assignment)


def blockwise(x: Tensor, y: Tensor, grid: tuple[int, int], block: int) -> Tensor:
    assignment = assign(pool_blocks(x, grid, block), pool_blocks(y, grid, block)).assignment
    return align_blocks(y, assignment, grid, block)


def difference(x: Tensor, partners: Tensor, full: Tensor) -> float:
    expected = mix(x, full, 0.5)
    return ((mix(x, partners, 0.5) - expected).norm() / expected.norm()).item()


def timed(run: Callable[[], Tensor], repeats: int = 7) -> tuple[Tensor, float]:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = run()
        times.append(time.perf_counter() - start)
    return result, median(times)


if __name__ == "__main__":
    main()
