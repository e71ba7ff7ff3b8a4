"""Two pictures of AlignMix: mixed training images with their targets, and the alignment of a pair."""

from pathlib import Path

import matplotlib.pyplot as plt
import torch
from images import Images
from matplotlib.axes import Axes
from torch import Tensor, nn

from alignmix_timm import MixingPoint, assign, choose_point, draw, mix

COLUMNS, ROWS = 6, 3


def mixed_inputs(train: Images, names: list[str], path: Path, seed: int) -> None:
    """A sheet of images as the model sees them in ``input`` mode, with their targets."""
    count = COLUMNS * ROWS
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(train), generator=generator)[:count].tolist()
    images = torch.stack([train[index][0] for index in chosen])
    labels = train.labels[chosen]
    params = draw(count, seed, step=0, modes=("input",))
    mixed = mix(images, images[params.perm], params.lam)
    figure, axes = plt.subplots(ROWS, COLUMNS, figsize=(1.9 * COLUMNS, 2.2 * ROWS), layout="constrained")
    for row, axis in enumerate(axes.flat):
        lam, first, second = params.lam[row].item(), labels[row], labels[params.perm[row]]
        axis.set_title(f"{lam:.2f} {names[first]}\n{1 - lam:.2f} {names[second]}", fontsize=9)
        _show(axis, mixed[row])
    figure.suptitle("Input mode: lam * first + (1 - lam) * second")
    figure.savefig(path, dpi=110)
    plt.close(figure)


@torch.no_grad()
def alignment(net: nn.Module, test: Images, names: list[str], path: Path) -> None:
    """Where an image finds its partners in another of its class, mirrored: the best for all, and all for one."""
    pair = (test.labels == len(names) - 1).nonzero().flatten()[:2].tolist()
    images = torch.stack([test[pair[0]][0], test[pair[1]][0].flip(2)])
    point = choose_point(net, test.size)
    height, width = point.map_size
    first, second = _tokens(net, images, point)
    plan = assign(first, second).assignment[0].cpu()  # [N, N]
    strongest = int(first[0].norm(dim=1).argmax())
    centers = [_center(position, point) for position in range(height * width)]
    figure, axes = plt.subplots(1, 3, figsize=(11, 4), layout="constrained")
    for axis, image, title in zip(
        axes,
        (images[0], images[1], images[1]),
        ("its positions are kept", "best partner of each position", "all partners of the circled position"),
        strict=True,
    ):
        _show(axis, image)
        axis.set_title(title)
    for row, partner in enumerate(plan.argmax(1).tolist()):
        badge = {"boxstyle": "circle", "facecolor": plt.get_cmap("hsv")(0.9 * row / len(plan)), "alpha": 0.7}
        for axis, position in ((axes[0], row), (axes[1], partner)):
            axis.text(*centers[position], f"{row + 1}", ha="center", va="center", fontsize=9, bbox=badge)
    axes[0].plot(*centers[strongest], "o", markersize=30, mfc="none", mec="red", mew=3)
    extent = (-0.5, test.size[2] - 0.5, test.size[1] - 0.5, -0.5)
    axes[2].imshow(plan[strongest].reshape(height, width), cmap="inferno", alpha=0.65, extent=extent)
    figure.suptitle(f"{names[-1]}, aligned at {point.feature_module}: {height} x {width} positions")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _tokens(net: nn.Module, images: Tensor, point: MixingPoint) -> tuple[Tensor, Tensor]:
    """Tokens of two images at the mixing point, [1, N, D] each."""
    found: list[Tensor] = []
    module = net.get_submodule(point.feature_module)
    handle = module.register_forward_hook(lambda module, args, output: found.append(output))
    net.eval()
    net(images.to(next(net.parameters()).device))
    handle.remove()
    tokens, _ = point.layout.split(found[0][0] if isinstance(found[0], tuple) else found[0])
    return tokens[:1], tokens[1:]


def _center(position: int, point: MixingPoint) -> tuple[float, float]:
    """Pixel (x, y) at the centre of a position of the map."""
    (height, width), (_, image_height, image_width) = point.map_size, point.input_size
    row, column = divmod(position, width)
    return (column + 0.5) * image_width / width - 0.5, (row + 0.5) * image_height / height - 0.5


def _show(axis: Axes, image: Tensor) -> None:
    axis.imshow((image.permute(1, 2, 0) + 1) / 2)
    axis.set_axis_off()
