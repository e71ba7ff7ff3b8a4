"""``python -m alignmix_timm.points MODEL --images DATA``: the table of what alignment does at the places of a model."""

import argparse
import logging
import math
import sys
from pathlib import Path
from typing import Any

from ..alignment import Alignment
from ..evaluation.bootstrap import FEWEST_MEMBERS, Interval
from ..sinkhorn import EPSILON
from ..typed import at_least
from . import choose_points, neighbouring_points, unannounced

_TABLE = "| place | positions | epsilon | effective correspondences | effect on the logits |"
_SCORES = " object on object, aligned | same position | difference |"
_DEFAULTS: dict[str, Any] = {  # of the options that need --images: none is in the namespace that was not given
    "weights": None,
    "places": None,
    "epsilon": [EPSILON],
    "boxes": None,
    "box_format": "xyxy",
    "image_column": None,
    "split": "train",
    "pairs": 300,
    "seed": 0,
}


def add_advice_options(parser: argparse.ArgumentParser) -> None:
    """The options of the advice, all of which need ``--images``."""
    group = parser.add_argument_group(
        "advice on one model with trained weights",
        "For the default place, its neighbours and the last larger map: how many positions effectively correspond to "
        "one; the relative difference of the logits between aligned and unaligned mixing; and with boxes how far "
        "objects are matched to objects, from 0, chance, to 1, the best that the marginals allow, with 95 %% bootstrap "
        "intervals over photos.",
    )
    group.add_argument("--images", metavar="DATA", help="photos: a folder, or a dataset of Hugging Face")

    def add(option: str, **kind: Any) -> None:
        group.add_argument(option, default=argparse.SUPPRESS, **kind)

    add("--weights", type=Path, metavar="FILE", help="default: the pretrained weights that timm knows")
    add("--places", nargs="+", metavar="MODULE", help="compare these places instead")
    add("--epsilon", type=float, nargs="+", help=f"default {EPSILON}")
    add("--boxes", metavar="COLUMN", help="boxes in pixels of each image, such as objects.bbox")
    add("--box-format", choices=("xyxy", "xywh"), help="default xyxy; xywh is COCO's")
    add("--image-column", metavar="COLUMN", help="default: the first column of images")
    add("--split", help=f"of the dataset; default {_DEFAULTS['split']}")
    add("--pairs", type=at_least(2), help=f"default {_DEFAULTS['pairs']}")
    add("--seed", type=at_least(0), help="the photos and pairs follow from it; default 0")


def given_advice_options(args: argparse.Namespace) -> list[str]:
    """Those that were given, all of which need ``--images``."""
    return [f"--{name.replace('_', '-')}" for name in _DEFAULTS if name in args]


def print_advice(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Print the table.

    Raises:
        SystemExit: with a sentence, where the model or the photos cannot be measured.
    """
    if len(args.models) != 1 or args.all or args.save is not None:
        parser.error("--images goes with the name of one model, and neither --all nor --save")
    if "box_format" in args and "boxes" not in args:
        parser.error("--box-format goes with --boxes")
    try:
        _print_advice(argparse.Namespace(**{**_DEFAULTS, **vars(args)}))
    except ValueError as error:
        sys.exit(f"error: {error}")


def _print_advice(args: argparse.Namespace) -> None:
    from .advice import advise, draw_pairs, measure_photos  # datasets is slow to import
    from .photos import PhotoData
    from .positions import Positions
    from .weights import size_of_images, trained_model

    logging.getLogger("timm").setLevel(logging.ERROR)
    alignments = [Alignment(epsilon=epsilon) for epsilon in args.epsilon]
    data = PhotoData(args.images, args.split, args.image_column, args.boxes, args.box_format)
    net = trained_model(args.models[0], args.weights, args.image_size)
    size = size_of_images(net, args.image_size)
    with unannounced():
        default, *chosen = choose_points(net, size, [None, *(args.places or [])])
        points = chosen or neighbouring_points(net, size)
    places = [Positions.of(point, alignments[0]) for point in points]
    measured = measure_photos(net, data, places, 2 * args.pairs, args.seed)
    pairs = draw_pairs(len(measured.images), args.pairs, args.seed)
    left_out = f", {measured.left_out} left out: their objects cover no position, or all" if measured.left_out else ""
    print(f"{args.models[0]} at images of {size}, {len(pairs)} pairs of {len(measured.images)} photos{left_out}.\n")
    header = _TABLE + (_SCORES if args.boxes else "")
    print(f"{header}\n{'|---' * (header.count('|') - 1)}|")
    for row in advise(net, measured, places, alignments, pairs):
        (height, width), name = row.place.grid, row.place.point.feature_module
        mark = " (default)" if name == default.feature_module else ""
        cells = [f"{name}{mark}", f"{height} x {width}", f"{row.epsilon:g}", f"{row.correspondences:.1f}"]
        cells.append(f"{row.effect:.1g}" if row.effect < 0.01 else f"{row.effect:.2f}")
        cells += [_interval(score) for score in (row.aligned, row.unaligned, row.gain) if score is not None]
        print(f"| {' | '.join(cells)} |", flush=True)
    if args.boxes and (members := len(pairs.unique())) < FEWEST_MEMBERS:
        print(
            f"\nNo intervals: {members} photos are too few to tell how scores vary between photos, at least "
            f"{FEWEST_MEMBERS} are needed."
        )


def _interval(score: Interval) -> str:
    bounds = "" if math.isnan(score.low) else f" [{score.low:.2f}, {score.high:.2f}]"
    return f"{score.mean:.2f}{bounds}"
