"""Time and memory of the alignment operator, from features to aligned features, against the alternatives.

    python recipes/benchmark_operator.py                      # a few minutes on two cores
    python recipes/benchmark_operator.py --features gaussian  # features without clusters

Every method gets the iterations it needs to reach the marginal error that ours has with its defaults (mean error of the
marginal that is not normalised last), at most 1,000; "not finite" is one whose numbers underflow. Ratios are medians of
alternating runs in one process. Memory is the peak that the profiler sees beyond the input.
"""

import argparse
import math
import os
import time
import warnings
from collections.abc import Callable
from functools import partial
from statistics import median

import geomloss
import torch
from ot.batch import dist_batch, solve_batch
from torch import Tensor

from alignmix_timm import align, assign
from alignmix_timm.sinkhorn import EPSILON, NUM_ITERS, centred_cost, solve

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's own messages

SHAPES = ((128, 512, 4), (32, 2048, 7), (64, 768, 14), (256, 256, 8))  # pairs, channels, side of the map
FEW_PAIRS = 4  # for the broadcast formulation where all its differences would not fit in memory
MOST_DIFFERENCES = 2**28
LADDER = (5, 10, 15, 20, 30, 40, 60, 80, 120, 160, 240, 320, 480, 640, 1000)

Solver = Callable[[Tensor, Tensor, int], Tensor]  # x, y, iterations -> assignment with rows that sum to 1


def ours(x: Tensor, y: Tensor, iterations: int) -> Tensor:
    return assign(x, y, EPSILON, iterations).assignment


def scale_of(x: Tensor, y: Tensor) -> Tensor:
    """That of our cost, [B, 1, 1]; the others' squared distances are divided by it, so that the plans are the same."""
    return centred_cost(x, y).square().mean((1, 2), keepdim=True).sqrt()


def pot(x: Tensor, y: Tensor, iterations: int, method: str) -> Tensor:
    cost = dist_batch(y, x)  # POT normalises columns last: exchange the two
    cost = cost / scale_of(y, x)
    plan = solve_batch(cost, EPSILON, max_iter=iterations, tol=0.0, method=method, grad="detach").plan
    return plan.mT * x.shape[1]


def geomloss_sinkhorn(x: Tensor, y: Tensor, iterations: int) -> Tensor:
    cost = torch.cdist(x, y).square()
    scale = scale_of(x, y)
    x, y, cost = x / scale.sqrt(), y / scale.sqrt(), cost / scale
    blur, diameter = (EPSILON / 2) ** 0.5, float(cost.max().sqrt())  # geomloss halves the squared distance
    solver = geomloss.SamplesLoss(
        blur=blur,
        diameter=diameter,
        scaling=(blur / diameter) ** (1 / iterations),
        debias=False,
        potentials=True,
        backend="tensorized",
    )
    _, g = solver(x, y)
    return torch.softmax((2 * g.unsqueeze(1) - cost) / EPSILON, 2)


def log_domain(x: Tensor, y: Tensor, iterations: int) -> Tensor:
    return _log_domain(torch.cdist(x, y).square() / scale_of(x, y), iterations)


def broadcast(x: Tensor, y: Tensor, iterations: int) -> Tensor:
    """All differences at once, and a test of convergence that reads a value in every iteration."""
    cost = ((x.unsqueeze(2) - y.unsqueeze(1)) ** 2).sum(3)  # B x N x M x D
    return _log_domain(cost / scale_of(x, y), iterations, reads=True)


def _log_domain(cost: Tensor, iterations: int, reads: bool = False) -> Tensor:
    kernel = -cost / EPSILON
    g = torch.zeros_like(kernel[:, :1])
    for _ in range(iterations):
        f = -torch.logsumexp(kernel + g, 2, keepdim=True)
        before, g = g, -torch.logsumexp(kernel + f, 1, keepdim=True)
        if reads and (g - before).abs().max().item() == 0:
            break
    return torch.softmax(kernel + g, 2)


SOLVERS: dict[str, Solver] = {
    "ours": ours,
    "POT batch, log_sinkhorn": partial(pot, method="log_sinkhorn"),
    "POT batch, sinkhorn": partial(pot, method="sinkhorn"),
    "geomloss, tensorized": geomloss_sinkhorn,
    "log-domain loop": log_domain,
    "broadcast cost": broadcast,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", choices=("clustered", "gaussian"), default="clustered")
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {args.features} features, epsilon {EPSILON}")
    for pairs, channels, side in SHAPES:
        x, y = make_features(args.features, pairs, channels, side), make_features(args.features, pairs, channels, side)
        compare(x, y, side, args.repeats)
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


def compare(x: Tensor, y: Tensor, side: int, repeats: int) -> None:
    target = marginal_error(ours(x, y, NUM_ITERS))
    print(f"\n{x.shape[0]} x {x.shape[2]} x {side} x {side}: marginal error {target:.1e} in {NUM_ITERS} iterations")
    runs: dict[str, tuple[Callable[[], Tensor], int, float, int]] = {}
    for name, solver in SOLVERS.items():
        few = name == "broadcast cost" and len(x) * side**4 * x.shape[2] >= MOST_DIFFERENCES
        a, b = (x[:FEW_PAIRS], y[:FEW_PAIRS]) if few else (x, y)
        iterations, error = next_best(solver, a, b, target) if name != "ours" else (NUM_ITERS, target)
        runs[name] = (partial(transport, solver, a, b, iterations), iterations, error, len(a))
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, (run, *_) in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    base = median(times["ours"]) / len(x)
    print(f"{'':26s}{'iterations':>11s}{'error':>9s}{'ms':>9s}{'time/ours':>11s}{'MiB':>8s}")
    for name, (run, iterations, error, pairs) in runs.items():
        note = f"  ({pairs} pairs; ratio per pair)" if pairs < len(x) else ""
        note += "  (not finite)" if math.isnan(error) else "  (error not reached)" if error > target else ""
        took = median(times[name])
        ratio = took / pairs / base
        print(f"{name:26s}{iterations:11d}{error:9.1e}{1e3 * took:9.1f}{ratio:11.1f}{peak_memory(run):8.1f}{note}")


def transport(solver: Solver, x: Tensor, y: Tensor, iterations: int) -> Tensor:
    return align(y, solver(x, y, iterations))


def next_best(solver: Solver, x: Tensor, y: Tensor, target: float) -> tuple[int, float]:
    """The least number of iterations whose error is no larger than the target, and that error."""
    error = float("nan")
    for iterations in LADDER:
        error = marginal_error(solver(x, y, iterations))
        if error <= target or math.isnan(error):
            break
    return iterations, error


def marginal_error(assignment: Tensor) -> float:
    return (assignment.sum(1) - 1).abs().mean().item()


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
        print(f"{name:26s} compile {compile_time:6.1f} s, step {1e3 * median(times):6.2f} ms")


if __name__ == "__main__":
    main()
