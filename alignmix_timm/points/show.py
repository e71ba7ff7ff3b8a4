"""The command ``alignmix-timm show MODEL IMAGE IMAGE``: a picture of which positions of two images correspond."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..alignment import Alignment
from ..evaluation.plotting import save_figure
from ..sinkhorn import EPSILON
from ..typed import at_least
from . import choose_point, unannounced
from .photos import cropped, normalized, read_photo
from .picture import draw_alignment
from .positions import Positions, tokens_at
from .weights import size_of_images, trained_model

_SHOWN = 320  # pixels, of the shorter side of an image in the picture


def main(arguments: Sequence[str] | None = None) -> None:
    """The command.

    Raises:
        SystemExit: with a sentence, where the picture cannot be drawn.
    """
    args = _parser().parse_args(arguments)
    if args.out.suffix.lower() != ".png":
        sys.exit(f"error: out must end in .png, got {args.out}.")
    try:
        save_figure(picture(args), args.out)
    except (ImportError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    print(args.out)


def picture(args: argparse.Namespace) -> Any:
    """Align the two images and draw them, as a matplotlib figure."""
    photos = [read_photo(path) for path in (args.first, args.second)]
    net, alignment = trained_model(args.model, args.weights, args.image_size), Alignment(epsilon=args.epsilon)
    channels, height, width = size = size_of_images(net, args.image_size)
    with unannounced():
        places = Positions.of(choose_point(net, size, args.place), alignment)
    pixels = torch.stack([cropped(photo, channels, height, width) for photo in photos])
    (tokens,) = tokens_at(net, [places], normalized(net, pixels))
    transport = alignment.transport(tokens[:1], tokens[1:])
    (rows, columns), architecture = places.grid, net.pretrained_cfg["architecture"]
    title = (
        f"{architecture} at {places.point.feature_module}, {rows} x {columns} positions; each corresponds to "
        f"{float(transport.effective_correspondences):.1f} on average"
    )
    enlarged = _SHOWN / min(height, width)
    shown = [cropped(photo, 3, round(enlarged * height), round(enlarged * width)) for photo in photos]
    position = tuple(args.position) if args.position else places.outstanding(tokens[0])
    return draw_alignment(2 * torch.stack(shown) - 1, transport.assignment[0], places, position, title)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "alignmix-timm show", description="Draw which positions of two images a model's features are aligned at."
    )
    parser.add_argument("model", help="of timm, or local-dir:FOLDER, or hf-hub:USER/NAME")
    parser.add_argument("first", metavar="IMAGE", help="image file that keeps its positions")
    parser.add_argument("second", metavar="IMAGE", help="image file that is aligned to it")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="default: the pretrained weights that timm knows")
    parser.add_argument("--image-size", type=at_least(1), help="default: the size the model was built for")
    parser.add_argument("--place", metavar="MODULE", help="default: where AlignMix mixes this model")
    parser.add_argument("--epsilon", type=float, default=EPSILON, help=f"of the alignment; default {EPSILON}")
    parser.add_argument(
        "--position",
        type=int,
        nargs=2,
        metavar=("ROW", "COL"),
        help="whose partners to show, from 0; default: that whose features stand out most",
    )
    parser.add_argument("--out", type=Path, default=Path("alignment.png"), help="default alignment.png")
    return parser


if __name__ == "__main__":
    main()
