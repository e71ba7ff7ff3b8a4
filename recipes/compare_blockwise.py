"""How far is blockwise alignment from the full plan on features of a trained network, and what does it save?

    python recipes/compare_blockwise.py

Trains a ResNet-18 on the embedded images, or reads its weights from --networks, and takes its 14 x 14 and 28 x 28 maps
at 224 pixels. Pairs are aligned with the full plan and blockwise. Printed are the difference of the mixed maps (lam =
0.5) as a share of their size, beside that of mixing without alignment, and the time as a share of the full plan's.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

from torch import Tensor
from trained_networks import test_images, tokens, trained

from alignmix_timm import align, assign, mix
from alignmix_timm.alignment import align_blocks, pool_blocks
from alignmix_timm.points import choose_points


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=Path, default=Path("runs/networks"), help="folder of the trained networks")
    parser.add_argument("--pairs", type=int, default=16)
    args = parser.parse_args()
    net = trained("resnet18", args.networks)
    images, _ = test_images(2 * args.pairs, 224)
    points = choose_points(net, (3, 224, 224), ("layer3", "layer2"))
    for point, (x, y) in zip(points, tokens(net, images, points), strict=True):
        layer, side = point.feature_module, point.map_size[0]
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
