"""Two pictures of AlignMix: mixed training images beside their sources, and the alignment plan of a pair."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from alignmix_timm import choose_point, draw, mix
from alignmix_timm.alignment import Alignment
from alignmix_timm.evaluation.plotting import new_figure, save_figure, show
from alignmix_timm.paper.images import Images
from alignmix_timm.points.picture import draw_alignment
from alignmix_timm.points.positions import Positions, tokens_at

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


def alignment(net: nn.Module, test: Images, names: list[str]) -> Any:
    """Which positions correspond in the first test images of the last two classes.

    The marked position is the one whose features stand out most.
    """
    present = test.labels.unique().tolist()
    labels = (present[-1], present[-2:][0])
    images = torch.stack([test[int((test.labels == label).nonzero()[0])][0] for label in labels])
    options = Alignment()
    places = Positions.of(choose_point(net, test.size), options)
    (tokens,) = tokens_at(net.eval(), [places], images)
    plan = options.transport(tokens[:1], tokens[1:]).assignment[0]
    title = f"{names[labels[0]]} and {names[labels[1]]}, aligned at {places.point.feature_module}"
    return draw_alignment(images, plan, places, places.outstanding(tokens[0]), title)


def _show(axes: Any, image: Tensor, title: str) -> None:
    show(axes, image)
    axes.set_title(title, fontsize="medium", parse_math=False)


def _short(name: str) -> str:
    """A class name that fits above its image."""
    return name if len(name) <= 12 else f"{name[:11]}…"
