"""Two pictures of AlignMix: mixed training images beside their sources, and the alignment plan of a pair."""

from pathlib import Path
from typing import Any

import torch
from images import Images
from torch import Tensor, nn

from alignmix_timm import MixingPoint, assign, choose_point, draw, mix
from alignmix_timm.evaluation.plotting import new_figure, save_figure, show

ROWS = 4


def draw_pictures(net: nn.Module, train: Images, test: Images, names: list[str], folder: Path, seed: int) -> None:
    """Draw both into a folder, and say where; without matplotlib, say that there are none."""
    try:
        save_figure(mixed_inputs(train, names, seed), folder / "mixed_inputs.png")
        save_figure(alignment(net, test, names), folder / "alignment.png")
    except ImportError as error:
        print(f"No pictures: {error}")
    else:
        print(f"Look at {folder / 'mixed_inputs.png'} and {folder / 'alignment.png'}.")


def mixed_inputs(train: Images, names: list[str], seed: int) -> Any:
    """Images as the model sees them in ``input`` mode, two in a row, each to the right of the two that it mixes."""
    count = min(4 * ROWS, len(train))
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(train), generator=generator)[:count].tolist()
    images = torch.stack([train[index][0] for index in chosen])
    classes = [names[label] for label in train.labels[chosen]]
    params = draw(count, seed, step=0, modes=("input",))
    mixed = mix(images, images[params.perm], params.lam)
    figure = new_figure(9, 1.7 * ROWS + 0.6)
    figure.suptitle("Input mode: images and targets are mixed alike", fontsize="x-large")
    axes = figure.subplots(ROWS, 7, width_ratios=(1, 1, 1, 0.1, 1, 1, 1))
    for cell in axes.flat:
        cell.set_axis_off()
    pairs = [(first, second) for first, second in enumerate(params.perm.tolist()) if first != second]
    for place, (first, second) in enumerate(pairs[: 2 * ROWS]):
        lam = params.lam[first].item()
        cells = axes[place // 2, 4 * (place % 2) :]
        _show(cells[0], images[first], f"{lam:.2f} x {_short(classes[first])}")
        _show(cells[1], images[second], f"+ {1 - lam:.2f} x {_short(classes[second])}")
        _show(cells[2], mixed[first], "= mixed")
    return figure


@torch.no_grad()
def alignment(net: nn.Module, test: Images, names: list[str]) -> Any:
    """Rows of the plan between the first test images of the last two classes.

    One row for each of three positions of the first image, those whose features have the largest, the median and the
    smallest norm: the weights with which the features of the second image, at all of its positions, are averaged there.
    """
    present = test.labels.unique().tolist()
    labels = (present[-1], present[-2:][0])
    images = torch.stack([test[int((test.labels == label).nonzero()[0])][0] for label in labels])
    classes = [_short(names[label]) for label in labels]
    point = choose_point(net, test.size)
    height, width = point.map_size
    first, second = _tokens(net, images, point)
    plan = assign(first, second).assignment[0].cpu()  # [N, N]
    order = first[0].norm(dim=1).argsort(descending=True).tolist()
    centers = [_center(position, point) for position in range(height * width)]
    figure = new_figure(9, 2.8)
    figure.suptitle(f"The plan at {point.feature_module}, {height} x {width} positions", fontsize="x-large")
    axes = figure.subplots(1, 4)
    _show(axes[0], images[0], f"first: {classes[0]}")
    badge = {"boxstyle": "circle", "facecolor": "white", "edgecolor": "red", "linewidth": 2}
    size = (70 / max(height, width)) ** 2  # half a position, in points
    for letter, position, axis in zip("abc", (order[0], order[len(order) // 2], order[-1]), axes[1:], strict=True):
        axes[0].text(*centers[position], letter, ha="center", va="center", bbox=badge)
        _show(axis, images[1], f"second: {classes[1]}, for {letter}")
        shown = axis.scatter(*zip(*centers, strict=True), size, plan[position], vmin=0, vmax=1, edgecolors="white")
    figure.colorbar(shown, ax=axes, shrink=0.8, label="weight in the plan")
    return figure


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


def _show(axes: Any, image: Tensor, title: str) -> None:
    show(axes, image)
    axes.set_title(title, fontsize="medium", parse_math=False)


def _short(name: str) -> str:
    """A class name that fits above its image."""
    return name if len(name) <= 12 else f"{name[:11]}…"
