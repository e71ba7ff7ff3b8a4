"""Figures 1 to 3 of the paper, from a trained autoencoder: ``python -m alignmix_timm.paper.figures RUN --out FOLDER``.

Figure 1: ways of mixing on the same pairs. Figure 2: alignment of points in the plane; it needs no run. Figure 3:
decoded interpolations without and with alignment. Features are decoded by the run's decoder; images are held out.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..evaluation.plotting import new_figure, save_figure, show
from ..functional import mix
from ..networks.autoencoder import Autoencoder
from ..training.restore import load_autoencoder, saved_config
from .interpolations import interpolate
from .pairs import Pairs, held_out_pairs
from .toy import toy_alignment

LAMS = torch.linspace(1, 0, 7).tolist()


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw figures 1 and 3 of the paper from a trained autoencoder, and figure 2, which needs none."""
    parser = argparse.ArgumentParser(prog="python -m alignmix_timm.paper.figures", description=main.__doc__)
    parser.add_argument("run", nargs="?", metavar="RUN", help="folder of a run with a decoder; default figure 2 alone")
    parser.add_argument("--data", help="dataset or folder; default the run's own")
    parser.add_argument("--out", type=Path, default=Path("pictures"), help="folder; default pictures")
    parser.add_argument("--pairs", type=int, default=4, help="pairs of images; default 4")
    parser.add_argument("--seed", type=int, default=0, help="the pairs follow from it")
    args = parser.parse_args(arguments)
    if args.pairs < 1:
        parser.error(f"--pairs must be at least 1, got {args.pairs}")
    try:
        figures = {"points": points_figure()}
        if args.run is not None:
            model, config = load_autoencoder(args.run), saved_config(args.run)
            config = replace(config, data=args.data or config.data)
            pairs = held_out_pairs(model.net, config, args.pairs, args.seed)
            figures |= {"methods": methods_figure(model, pairs), "interpolations": interpolations_figure(model, pairs)}
        for name, figure in figures.items():
            save_figure(figure, args.out / f"{name}.png")
            print(args.out / f"{name}.png")
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")


def methods_figure(model: Autoencoder, pairs: Pairs, lam: float = 0.5) -> Any:
    """Figure 1: each pair beside its input mixup, CutMix, manifold mixup and AlignMix; the last two are decoded.

    Args:
        model: In eval mode.
        pairs: Of normalised images.
        lam: Share of the first image in [0, 1].

    Returns:
        A matplotlib figure, as of every function here.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: as :func:`alignmix_timm.paper.interpolations.interpolate`.
    """
    first, second = model.rescale(pairs.first), model.rescale(pairs.second)
    decoded = interpolate(model, pairs.first, pairs.second, [lam])
    columns = {
        "first": first,
        "second": second,
        "input mixup": mix(first, second, lam),
        "CutMix": cutmix(first, second, lam),
        "manifold mixup,\ndecoded": decoded.unaligned[0],
        "AlignMix,\ndecoded": decoded.aligned[0],
    }
    count = len(first)
    figure = new_figure(1.6 * len(columns), 1.5 * count + 0.8)
    axes = figure.subplots(count, len(columns), squeeze=False)
    for column, (title, images) in enumerate(columns.items()):
        axes[0, column].set_title(title, fontsize="medium")
        for row, image in enumerate(images):
            show(axes[row, column], image)
    for row, names in enumerate(zip(pairs.first_names, pairs.second_names, strict=True)):
        for column, name in enumerate(names):
            axes[row, column].set_ylabel(name, fontsize="small")
    figure.suptitle(f"lam = {lam:g}")
    return figure


def interpolations_figure(model: Autoencoder, pairs: Pairs) -> Any:
    """Figure 3: decoded interpolations of each pair, unaligned above aligned, by equation 12 and by 13.

    To the left of each row is the image whose positions are kept, to the right its partner.

    Args, Returns and Raises as :func:`methods_figure`.
    """
    rows = []
    for equation, kept, partner in ((12, pairs.first, pairs.second), (13, pairs.second, pairs.first)):
        for kind, decoded in zip(("unaligned", "aligned"), interpolate(model, kept, partner, LAMS), strict=True):
            rows.append((f"eq. {equation}\n{kind}", [model.rescale(kept), *decoded, model.rescale(partner)]))
    height, width = len(rows) * len(pairs.first), len(LAMS) + 2
    figure = new_figure(width + 0.3, height + 0.4)
    axes = figure.subplots(height, width, squeeze=False)
    for place, line in enumerate(axes):
        pair, row = divmod(place, len(rows))
        label, images = rows[row]
        line[0].set_ylabel(label, fontsize="medium")
        for one, batch in zip(line, images, strict=True):
            show(one, batch[pair])
    for one, title in zip(axes[0], ("kept", *(f"lam {lam:.2f}" for lam in LAMS), "partner"), strict=True):
        one.set_title(title, fontsize="medium")
    return figure


def points_figure() -> Any:
    """Figure 2: points A and A', their cost, their assignment, and their interpolations in both directions."""
    toy = toy_alignment()
    figure = new_figure(11, 7)
    axes = figure.subplot_mosaic([["points", "points", "cost", "cost", "assignment", "assignment"], [*"aaabbb"]])
    sets = {"A": (toy.x, "tab:red"), "A'": (toy.y, "tab:blue")}
    for panel, opacity in (("points", 1.0), ("a", 0.25), ("b", 0.25)):
        for name, (points, color) in sets.items():
            axes[panel].scatter(*points.T.numpy(), color=color, alpha=opacity, label=name)
        axes[panel].set_aspect("equal")
    for panel, matrix, title in (("cost", toy.cost, "cost M (7)"), ("assignment", toy.assignment, "assignment R (9)")):
        figure.colorbar(axes[panel].imshow(matrix.numpy(), cmap="viridis"), ax=axes[panel], shrink=0.7)
        axes[panel].set(title=title, xlabel="A'", ylabel="A")
    for panel, name, aligned, equation in (("a", "A", toy.x_aligned, 12), ("b", "A'", toy.y_aligned, 13)):
        kept, color = sets[name]
        path = torch.stack([mix(kept, aligned, lam) for lam in LAMS])
        axes[panel].plot(*path.permute(2, 0, 1).numpy(), color="0.6", marker=".", linewidth=0.8, zorder=0)
        axes[panel].scatter(*aligned.T.numpy(), color=color, marker="x", label=f"{name} aligned (lam = 0)")
        axes[panel].set_title(f"from {name} (lam = 1) to {name} aligned ({equation})")
    for panel in ("points", "a", "b"):
        axes[panel].legend(fontsize="small")
    return figure


def cutmix(first: Tensor, second: Tensor, lam: float) -> Tensor:
    """The first images [B, C, H, W], with 1 - lam of their area, a rectangle at the centre, from the second."""
    height, width = first.shape[2:]
    tall, wide = (round(side * (1 - lam) ** 0.5) for side in (height, width))
    top, left = (height - tall) // 2, (width - wide) // 2
    mixed = first.clone()
    mixed[..., top : top + tall, left : left + wide] = second[..., top : top + tall, left : left + wide]
    return mixed


if __name__ == "__main__":
    main()
