"""Choose the default epsilon and number of iterations on the features of a trained network.

    python recipes/choose_epsilon.py

Trains a ResNet-18 on the embedded images (two minutes on two cores), takes its layer3 at three image sizes, and prints
for each map the mean marginal error and the effective correspondences of every epsilon and number of iterations, and
the time of the iterations as a share of that of the matrix products (cost, and applying the assignment) at the size of
the last map of a ResNet-18 and a ResNet-50. The rule: the smallest epsilon whose mean marginal error is below 1e-2 on
the paper's map, 4 x 4, and on timm's commonest, 7 x 7, within iterations that cost less than the products on both. The
14 x 14 map is for information.
"""

import argparse
import time
from pathlib import Path
from statistics import median

import timm
import torch
from images import Images, load
from torch import Tensor, nn

from alignmix_timm import align, assign
from alignmix_timm.sinkhorn import solve, squared_distances

EMBEDDED = Path(__file__).parent / "data" / "fashion_mnist"
EPSILONS = (0.1, 0.05, 0.02, 0.01, 0.005)
ITERATIONS = (10, 15, 20, 30, 40)
SIZES = (64, 112, 224)  # layer3 of a ResNet-18 is then 4 x 4, 7 x 7 and 14 x 14
RULED = SIZES[:2]
TIMED = ((128, 512, 4), (32, 2048, 7))  # pairs, channels, side of the map
LIMIT = 1e-2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    net, test = train(args.epochs, args.seed)
    passing = {(epsilon, count) for epsilon in EPSILONS for count in ITERATIONS}
    print("\nTime of the iterations over that of the matrix products")
    print("iterations      " + "".join(f"{count:>17d}" for count in ITERATIONS))
    for pairs, channels, side in TIMED:
        x, y = (torch.randn(pairs, channels, side * side).mT for _ in "xy")
        shares = {count: time_share(x, y, count) for count in ITERATIONS}
        print(
            f"{pairs} x {channels} x {side} x {side}".ljust(16) + "".join(f"{share:17.2f}" for share in shares.values())
        )
        passing -= {(epsilon, count) for epsilon, count in passing if shares[count] >= 1}
    for size in SIZES:
        x, y = features(net, test, size, args.pairs)
        side = round(x.shape[1] ** 0.5)
        print(
            f"\n{side} x {side} map, {x.shape[2]} channels, {args.pairs} pairs: mean marginal error (correspondences)"
        )
        print("iterations      " + "".join(f"{count:>17d}" for count in ITERATIONS))
        for epsilon in EPSILONS:
            results = {count: assign(x, y, epsilon, count) for count in ITERATIONS}
            errors = {count: result.marginal_error.mean().item() for count, result in results.items()}
            cells = [f"{errors[c]:.1e} ({r.effective_correspondences.mean():.1f})" for c, r in results.items()]
            print(f"epsilon {epsilon:<8g}" + "".join(f"{cell:>17s}" for cell in cells))
            if size in RULED:
                passing -= {(epsilon, count) for count in ITERATIONS if errors[count] >= LIMIT}
    if passing:
        epsilon, count = min(passing)
        print(f"\nThe rule chooses epsilon = {epsilon:g} with {count} iterations.")
    else:
        print("\nNo epsilon satisfies the rule.")


def train(epochs: int, seed: int) -> tuple[nn.Module, Images]:
    """A ResNet-18 trained without mixing, in eval mode, and test images of the largest size."""
    torch.manual_seed(seed)
    images, _, names = load(EMBEDDED, SIZES[0])
    net = timm.create_model("resnet18", num_classes=len(names))
    steps = epochs * (len(images) // 4 // 64)
    optimizer = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9, weight_decay=5e-4, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, total_steps=steps)
    loader = torch.utils.data.DataLoader(images.subset(len(images) // 4, seed, True), 64, shuffle=True, drop_last=True)
    for _ in range(epochs):
        for pixels, labels in loader:
            loss = nn.functional.cross_entropy(net(pixels), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    _, test, _ = load(EMBEDDED, SIZES[-1])
    net.eval()
    with torch.no_grad():
        subset = test.subset(500, seed, False)
        small = nn.functional.interpolate(subset.pixels.float() / 127.5 - 1, size=SIZES[0], mode="area")
        print(f"ResNet-18 after {steps} steps: accuracy {(net(small).argmax(1) == subset.labels).double().mean():.3f}")
    return net, test


@torch.no_grad()
def features(net: nn.Module, test: Images, size: int, pairs: int, layer: str = "layer3") -> tuple[Tensor, Tensor]:
    """Tokens of random pairs of test images at the end of a layer, [pairs, N, D] each."""
    pixels = test.subset(2 * pairs, seed=0, augment=False).pixels.float() / 127.5 - 1
    found: list[Tensor] = []
    handle = net.get_submodule(layer).register_forward_hook(lambda module, args, output: found.append(output))
    net(nn.functional.interpolate(pixels, size=size, mode="area"))
    handle.remove()
    tokens = found[0].flatten(2).mT
    return tokens[:pairs], tokens[pairs:]


def time_share(x: Tensor, y: Tensor, num_iters: int, repeats: int = 9) -> float:
    """Median time of the iterations over that of the matrix products, in alternating runs."""
    cost, scale = squared_distances(x, y)
    relative, epsilon = cost / cost.mean((1, 2), keepdim=True), torch.full_like(scale, 0.02)
    assignment = solve(relative, epsilon, scale, num_iters)[0]
    products, iterations = [], []
    for _ in range(repeats):
        start = time.perf_counter()
        squared_distances(x, y)
        align(y, assignment)
        middle = time.perf_counter()
        solve(relative, epsilon, scale, num_iters)
        products.append(middle - start)
        iterations.append(time.perf_counter() - middle)
    return median(iterations) / median(products)


if __name__ == "__main__":
    main()
