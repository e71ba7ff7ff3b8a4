"""Time and memory of the alignment operator, from features to aligned features, against the alternatives.

    python recipes/benchmark_operator.py                      # a few minutes on two cores
    python recipes/benchmark_operator.py --features gaussian  # features without clusters

Every rival gets the iterations it needs to reach the marginal error that ours has with its defaults (mean error of the
marginal that is not normalised last), at most 480; "not finite" is one whose numbers underflow. ``former default``
divides squared distances by their mean, at epsilon 0.02; ``two matrix products`` are ours without the iterations: the
cost, and applying an assignment. Each row is ours and another in turns in one process, and printed once it is measured;
times are medians. That of ours is ours against itself: how far it is from 1 is noise. Memory is the peak that the
profiler sees beyond the input, of a rival in a run of five iterations.
"""

import argparse
import math
import os
import time
import warnings
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
from solvers import RIVALS, Solver, ours, scale_of
from torch import Tensor

from alignmix_timm import align, assign
from alignmix_timm.sinkhorn import EPSILON, NUM_ITERS, centred_cost, solve

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's own messages

SHAPES = ((128, 512, 4), (32, 2048, 7), (64, 768, 14), (256, 256, 8))  # pairs, channels, side of the map
LADDER = (5, 10, 15, 20, 30, 40, 60, 80, 120, 160, 240, 320, 480)
FEW_PAIRS = 4  # for a rival that takes too much memory or time at a shape
MOST_DIFFERENCES = 2**28  # that the broadcast formulation holds at once
MOST_COSTS = 2**19  # for geomloss, whose error falls only as 1 / iterations


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", choices=("clustered", "gaussian"), default="clustered")
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {args.features} features, epsilon {EPSILON}")
    for pairs, channels, side in SHAPES:
        print(f"\n{pairs} x {channels} x {side} x {side}")
        x, y = (make_features(args.features, pairs, channels, side) for _ in "xy")
        compare(x, y, args.repeats)
    compare_compiled(args.repeats)


def make_features(kind: str, pairs: int, channels: int, side: int) -> Tensor:
    """Tokens [B, N, D], laid out as a channels-first network leaves them.

    Clustered features are as hard to transport as those of trained networks: an image has few kinds of content, and two
    images have unequal shares of them.
    """
    tokens = torch.randn(pairs, side * side, channels)
    if kind == "clustered":
        generator = torch.Generator().manual_seed(1234)  # the kinds are the same in all images
        prototypes, directions = (torch.randn(count, channels, generator=generator) for count in (8, 4))
        content = torch.multinomial(torch.rand(pairs, 8) ** 4, side * side, replacement=True)
        tokens = prototypes[content] + 0.3 * torch.randn(pairs, side * side, 4) @ directions
    return tokens.mT.contiguous().mT


def compare(x: Tensor, y: Tensor, repeats: int) -> None:
    """Print a row for ours, its matrix products, and each rival."""
    scale = scale_of(x, y)
    assignment = ours(x, y, scale, NUM_ITERS)
    target = marginal_error(assignment)
    run = partial(transport, ours, x, y, scale, NUM_ITERS)
    print(f"{'':26s}{'iterations':>11s}{'error':>9s}{'ms':>9s}{'time/ours':>11s}{'MiB':>8s}", flush=True)
    print_row("ours", NUM_ITERS, target, *alternate(run, run, repeats), peak_memory(run))
    products = partial(matrix_products, x, y, assignment)
    took, base = alternate(products, run, repeats)
    note = f"  (the rest of ours takes {base / took - 1:.2f} times as long)"
    print_row("two matrix products", "", "", took, base, peak_memory(products), note)
    for name, solver in RIVALS.items():
        pairs = FEW_PAIRS if too_large(name, x) else len(x)
        inputs = x[:pairs], y[:pairs], scale[:pairs]
        iterations, error = least_iterations(solver, inputs, target)
        took, base = alternate(partial(transport, solver, *inputs, iterations), run, repeats)
        note = f"  ({pairs} pairs; ratio per pair)" if pairs < len(x) else ""
        note += "  (not finite)" if math.isnan(error) else "  (error not reached)" if error > target else ""
        memory = peak_memory(partial(transport, solver, *inputs, LADDER[0]))
        print_row(name, iterations, error, took, base * pairs / len(x), memory, note)


def too_large(name: str, x: Tensor) -> bool:
    """Whether a rival would take too much memory or time for all pairs."""
    costs = x.shape[0] * x.shape[1] ** 2
    if name == "broadcast cost":
        return costs * x.shape[2] >= MOST_DIFFERENCES
    return name == "geomloss, tensorized" and costs >= MOST_COSTS


def transport(solver: Solver, x: Tensor, y: Tensor, scale: Tensor, iterations: int) -> Tensor:
    return align(y, solver(x, y, scale, iterations))


def matrix_products(x: Tensor, y: Tensor, assignment: Tensor) -> Tensor:
    centred_cost(x, y)
    return align(y, assignment)


def least_iterations(solver: Solver, inputs: tuple[Tensor, Tensor, Tensor], target: float) -> tuple[int, float]:
    """The least number of iterations whose error is no larger than the target, and that error."""
    error = float("nan")
    for iterations in LADDER:
        error = marginal_error(solver(*inputs, iterations))
        if error <= target or math.isnan(error):
            break
    return iterations, error


def marginal_error(assignment: Tensor) -> float:
    return (assignment.sum(1) - 1).abs().mean().item()


def alternate(one: Callable[[], object], other: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Median seconds of each, run in turns after one run that is not counted."""
    one(), other()
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for run, of_run in zip((one, other), times, strict=True):
            start = time.perf_counter()
            run()
            of_run.append(time.perf_counter() - start)
    return median(times[0]), median(times[1])


def print_row(
    name: str, iterations: int | str, error: float | str, took: float, base: float, memory: float, note: str = ""
) -> None:
    shown = error if isinstance(error, str) else f"{error:.1e}"
    print(f"{name:26s}{iterations:>11}{shown:>9s}{1e3 * took:9.1f}{took / base:11.2f}{memory:8.1f}{note}", flush=True)


def peak_memory(run: Callable[[], Tensor]) -> float:
    with torch.profiler.profile(profile_memory=True) as profile:
        run()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    held, peak = 0, 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak / 2**20


def compare_compiled(repeats: int) -> None:
    """The operator as one opaque node of the graph, as it is, against its loop traced into the graph."""

    def opaque(x: Tensor, y: Tensor) -> Tensor:
        return align(y, assign(x, y).assignment)

    def traced(x: Tensor, y: Tensor) -> Tensor:
        cost = centred_cost(x, y)
        scale = cost.square().mean((1, 2), keepdim=True).sqrt()
        return align(y, solve(cost / scale, torch.full_like(scale, EPSILON), torch.ones_like(scale), NUM_ITERS)[0])

    print("\ntorch.compile (inductor), 64 x 512 x 4 x 4")
    x, y = (make_features("clustered", 64, 512, 4) for _ in "xy")
    for name, function in (("opaque operator", opaque), ("traced loop", traced)):
        torch.compiler.reset()
        compiled = torch.compile(function)
        start = time.perf_counter()
        compiled(x, y)
        compile_time, times = time.perf_counter() - start, []
        for _ in range(10 * repeats):
            start = time.perf_counter()
            compiled(x, y)
            times.append(time.perf_counter() - start)
        print(f"{name:26s} compile {compile_time:6.1f} s, step {1e3 * median(times):6.2f} ms", flush=True)


if __name__ == "__main__":
    main()
