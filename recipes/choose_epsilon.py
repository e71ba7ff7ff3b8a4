"""Measure the default epsilon, and how the solver reaches it, on the features of trained networks.

    python recipes/choose_epsilon.py
    python recipes/choose_epsilon.py --weights tf_efficientnet_lite0.safetensors --photos path/or/name

Trains three small networks of different families on the embedded images, a few minutes each; a second run reads their
weights from --networks. With --photos, a pretrained EfficientNet-Lite0 on photos is the fourth. Random pairs of images
are aligned at the default place of each network and at its neighbours. Printed are

- the effective correspondences of each place and epsilon, and the largest over the smallest of them, also as shares of
  the positions: an epsilon is as sharp at one place as at another where that is near 1;
- the largest mean marginal error of the places, by epsilon and number of iterations, and, at epsilon 0.05, by the
  epsilon at which the solver starts: below 1e-2 at the default;
- the time of the iterations as a share of that of the matrix products (cost, and applying the assignment): below 1.5
  at the default.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import timm
import torch
from torch import Tensor, nn
from trained_networks import NETWORKS, accuracy, neighbourhood, photos, test_images, tokens, trained

from alignmix_timm import Transport, align
from alignmix_timm.sinkhorn import EPSILON, NUM_ITERS, START, centred_cost, solve

EPSILONS = (0.5, 0.2, 0.1, 0.05, 0.02)
ITERATIONS = (10, 15, 20, 30, 40)
SHARP, STARTS = 0.05, (0.1, 0.2, 0.5, 1.0)  # the start matters for sharp plans
SHAPES = ((128, 512, 4), (32, 2048, 7), (64, 768, 14), (256, 256, 8))  # pairs, channels, side of the map
PRETRAINED = "tf_efficientnet_lite0"


class Place(NamedTuple):
    """Pairs of feature maps at a place of a network, as tokens x and y, [pairs, N, D]."""

    network: str
    name: str
    x: Tensor
    y: Tensor


def main() -> None:
    args = parse_args()
    places = [place for net, images in networks(args) for place in places_of(net, images)]
    print(f"\nEffective correspondences, {NUM_ITERS} iterations, {args.pairs} pairs; the star marks the default place")
    print_correspondences(places)
    print("\nLargest mean marginal error of the places")
    print_row("iterations", ITERATIONS)
    for epsilon in EPSILONS:
        print_row(f"epsilon {epsilon:g}", [f"{worst(places, epsilon, count):.1e}" for count in ITERATIONS])
    for start in STARTS:
        errors = [worst(places, SHARP, count, start) for count in ITERATIONS]
        print_row(f"{SHARP:g}, starting at {start:g}", [f"{error:.1e}" for error in errors])
    print(f"\nTime of the iterations over that of the matrix products, {torch.get_num_threads()} threads")
    print_row("iterations", ITERATIONS)
    for pairs, channels, side in SHAPES:
        x, y = (torch.randn(pairs, channels, side * side).mT for _ in "xy")
        shares = [f"{time_share(x, y, count):.2f}" for count in ITERATIONS]
        print_row(f"{pairs} x {channels} x {side} x {side}", shares)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--networks", type=Path, default=Path("runs/networks"), help="folder of the trained networks")
    parser.add_argument("--photos", metavar="DATASET", help="name or folder for datasets.load_dataset; column image")
    parser.add_argument("--weights", metavar="FILE", help=f"of {PRETRAINED}; default those that timm downloads")
    return parser.parse_args()


def networks(args: argparse.Namespace) -> Iterator[tuple[nn.Module, Tensor]]:
    """Trained networks, each with two images a pair."""
    for name, how in NETWORKS.items():
        net = trained(name, args.networks)
        images, labels = test_images(500, how.size)
        print(f"{name}: accuracy {accuracy(net, images, labels):.3f}", flush=True)
        yield net, images[: 2 * args.pairs]
    if args.photos:
        weights = {"file": args.weights} if args.weights else None
        net = timm.create_model(PRETRAINED, pretrained=True, pretrained_cfg_overlay=weights).eval()
        yield net, photos(net, args.photos, 2 * args.pairs)


def places_of(net: nn.Module, images: Tensor) -> Iterator[Place]:
    """The default place of a network, marked, and its neighbours."""
    default, points = neighbourhood(net, images)
    for point, (x, y) in zip(points, tokens(net, images, points), strict=True):
        height, width = point.map_size
        star = "*" if point.feature_module == default else ""
        network = type(net).__name__
        yield Place(network, f"{network} {point.feature_module}{star}, {height} x {width}", x, y)


def print_correspondences(places: Sequence[Place]) -> None:
    print_row("", [f"epsilon {epsilon:g}" for epsilon in EPSILONS])
    counts: dict[str, Tensor] = {}  # of each network, [places, epsilons]
    positions = torch.tensor([float(place.x.shape[1]) for place in places]).unsqueeze(1)
    for place in places:
        solutions = (transport(place.x, place.y, epsilon, NUM_ITERS) for epsilon in EPSILONS)
        row = torch.stack([one.effective_correspondences.mean() for one in solutions]).unsqueeze(0)
        print_row(place.name, [f"{count:.1f}" for count in row[0].tolist()])
        counts[place.network] = torch.cat([counts.get(place.network, row[:0]), row])
    for network, of_network in counts.items():
        print_ratios(f"largest / smallest, {network}", of_network)
    print_ratios("largest / smallest, all networks", torch.cat(list(counts.values())))
    print_ratios("the same of the share of the positions", torch.cat(list(counts.values())) / positions)


def print_ratios(name: str, counts: Tensor) -> None:
    print_row(name, [f"{ratio:.2f}" for ratio in (counts.amax(0) / counts.amin(0)).tolist()])


def print_row(name: str, cells: Sequence[object]) -> None:
    print(f"{name:44s}" + "".join(f"{cell!s:>14s}" for cell in cells), flush=True)


def worst(places: Sequence[Place], epsilon: float, num_iters: int, start: float = START) -> float:
    """The largest of the places' mean marginal errors."""
    solutions = (transport(place.x, place.y, epsilon, num_iters, start) for place in places)
    return max(one.marginal_error.mean().item() for one in solutions)


def transport(x: Tensor, y: Tensor, epsilon: float, num_iters: int, start: float = START) -> Transport:
    """As ``alignmix_timm.assign``, with another start."""
    cost, unit = scaled_cost(x, y)
    return Transport(*solve(cost, epsilon * unit, unit, num_iters, start))


def scaled_cost(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Cost over its root mean square, [B, N, M], and ones [B, 1, 1]."""
    cost = centred_cost(x, y)
    scale = cost.square().mean((1, 2), keepdim=True).sqrt()
    return cost / scale, torch.ones_like(scale)


def time_share(x: Tensor, y: Tensor, num_iters: int, repeats: int = 9) -> float:
    """Median time of the iterations over that of the matrix products, in alternating runs."""
    cost, unit = scaled_cost(x, y)
    assignment = solve(cost, EPSILON * unit, unit, num_iters)[0]
    products, iterations = [], []
    for _ in range(repeats):
        start = time.perf_counter()
        centred_cost(x, y)
        align(y, assignment)
        middle = time.perf_counter()
        solve(cost, EPSILON * unit, unit, num_iters)
        products.append(middle - start)
        iterations.append(time.perf_counter() - middle)
    return median(iterations) / median(products)


if __name__ == "__main__":
    main()
