"""Draw one pair of images as every way of mixing mixes it, each with its target: figure 1 of the AlignMix paper.

    python recipes/show_mixers.py
    python recipes/show_mixers.py --mixers cutmix saliencymix --lam 0.7 --data path/or/name --image-size 224
    python recipes/show_mixers.py --mixers stylemix --mixer-args stylemix.encoder=FILE ...

The picture names what it leaves out: mixers of features, which no image shows, and those that need files. Mixers that
ask the network where an image matters ask --model, which has random weights unless --pretrained is given.
"""

import argparse
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from torch import Tensor, nn

from alignmix_timm import AlignMixModel
from alignmix_timm.evaluation.plotting import new_figure, save_figure, show
from alignmix_timm.mixers import MIXERS, Mixer, NoMixing, image_size, make_mixer
from alignmix_timm.mixers.pairs import PairMixer
from alignmix_timm.paper.images import decoded
from alignmix_timm.params import MixParams, Place
from alignmix_timm.points import unannounced
from alignmix_timm.training.config import TrainConfig
from alignmix_timm.training.console import wrapped
from alignmix_timm.training.data.splits import load_splits
from alignmix_timm.training.errors import told_in_a_sentence
from alignmix_timm.training.options import argument
from alignmix_timm.training.parsing import OneLineParser

EMBEDDED = Path(__file__).parent / "data" / "fashion_mnist"
COLUMNS, TRIES = 4, 100


class Pair(NamedTuple):
    """Two images of different classes, [2, C, H, W] in [-1, 1], their labels, and the names of all classes."""

    images: Tensor
    labels: Tensor
    names: list[str]


def main() -> None:
    parser = OneLineParser(__doc__)
    parser.add_argument("--mixers", nargs="+", metavar="NAME", help=f"default: all of {', '.join(MIXERS)}")
    parser.add_argument("--mixer-args", default={}, help="as cutmix.alpha=2", **argument(dict[str, Any]))
    parser.add_argument("--lam", type=float, default=0.5, help="share of the first image, where it is drawn")
    parser.add_argument("--seed", type=int, default=0, help="of the pair and of all else that is drawn")
    parser.add_argument("--data", default=EMBEDDED, help="name or folder for datasets.load_dataset")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--model", default="test_resnet", help="any name of timm.list_models()")
    parser.add_argument("--pretrained", action="store_true", help="with the weights of timm")
    parser.add_argument("--out", type=Path, default=Path("pictures/mixers.png"))
    args = parser.parse_args()
    with told_in_a_sentence():
        if not 0 <= args.lam <= 1:
            raise ValueError(f"lam must be in [0, 1], got {args.lam}.")
        mixers, left_out = made(args.mixers, args.mixer_args)
        pair = load_pair(args.data, args.image_size, args.seed)
        net = timm.create_model(args.model, pretrained=args.pretrained, num_classes=len(pair.names))
        try:
            save_figure(sheet(pair, mixers, left_out, net, args), args.out)
        except ImportError as error:
            raise ValueError(error) from error
        print(f"Look at {args.out}.")


def made(names: Sequence[str] | None, options: dict[str, Any]) -> tuple[list[Mixer], dict[str, str]]:
    """The mixers of images, which mix every batch, and why others are left out.

    Raises:
        ValueError: a mixer that was named, or that options were given for, cannot be made.
    """
    given: dict[str, dict[str, Any]] = {name: {} for name in names or ()}
    for option, value in options.items():
        name, _, key = option.partition(".")
        if names is not None and name not in names:
            raise ValueError(f"mixer_args must be MIXER.ARGUMENT=value of one of {', '.join(names)}, got {option!r}.")
        given.setdefault(name, {})[key] = value
    mixers, left_out = [], {}
    for name in dict.fromkeys((*(names or MIXERS), *given)):
        try:
            mixer = make_mixer(name, **given.get(name, {}))
        except ValueError:
            if name in given:
                raise
            left_out[name] = "files of weights are missing"
            continue
        if isinstance(mixer, NoMixing):
            continue
        if mixer.mixes_inside:
            left_out[name] = "features are mixed"
        elif any(field.name == "prob" for field in fields(mixer)):
            mixers.append(replace(mixer, prob=1.0))  # type: ignore[call-arg]
        else:
            mixers.append(mixer)
    return mixers, left_out


def load_pair(data: str | Path, size: int, seed: int) -> Pair:
    """The first two test images of different classes, in an order drawn by the seed.

    Raises:
        ValueError: the data cannot be loaded, or has images of one class alone.
    """
    splits = load_splits(TrainConfig(data=str(data)))
    labels = torch.tensor(splits.test.select_columns(splits.label)[splits.label])
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    others = order[labels[order] != labels[order[0]]].tolist()
    if not others:
        raise ValueError(f"data must have test images of two classes, got only {splits.names[int(labels[0])]!r}.")
    rows = decoded(splits.test.select([int(order[0]), others[0]]), splits.image, splits.label, size)
    return Pair(torch.stack([image for image, _ in (rows[0], rows[1])]), rows.labels, splits.names)


def sheet(
    pair: Pair, mixers: Sequence[Mixer], left_out: dict[str, str], net: nn.Module, args: argparse.Namespace
) -> Any:
    """The pair, then its first image as each mixer mixes it, above the shares of the classes in its target.

    Args:
        pair: To mix.
        mixers: Of images.
        left_out: Names of others, each with the reason, for the line at the bottom.
        net: Whose loss tells where an image matters, for the mixers that ask.
        args: With ``lam`` and ``seed``.
    """
    one_hot = nn.functional.one_hot(pair.labels, len(pair.names)).float()
    shown = [("first", pair.images[0], one_hot[0]), ("second", pair.images[1], one_hot[1])]
    for mixer in mixers:
        with unannounced():
            model = AlignMixModel(net, mixer=mixer, input_size=image_size(pair.images)).train()
        params = drawn(mixer, args.lam, args.seed)
        mixed = mixer.mix(pair.images, one_hot, params, model.hooks)
        model.detach()
        shown.append((type(mixer).__name__, mixed.images[0], mixed.targets[0]))
    rows = -(-len(shown) // COLUMNS)
    figure = new_figure(2.4 * COLUMNS, 2.7 * rows + 0.5)
    cells = figure.subplots(rows, COLUMNS, squeeze=False).flat
    for axes in cells[len(shown) :]:
        axes.set_axis_off()
    for axes, (title, image, target) in zip(cells, shown, strict=False):
        show(axes, image)
        axes.set_title(f"{title}\n{shares(target, pair.names)}", fontsize="medium", parse_math=False)
    if left_out:
        groups = [[name for name in left_out if left_out[name] == why] for why in dict.fromkeys(left_out.values())]
        reasons = [f"{', '.join(group)} ({left_out[group[0]]})" for group in groups]
        figure.supxlabel(wrapped(f"Not shown: {'; '.join(reasons)}."), fontsize="medium")
    return figure


def drawn(mixer: Mixer, lam: float, seed: int) -> MixParams:
    """What a mixer draws first for a pair in which each is the other's partner, with this lam where pairs have one."""
    draws = [mixer.draw(2, Place(seed, step)) for step in range(TRIES)]
    swapped = [params for params in draws if params.perm.tolist() == [1, 0]]
    params = (swapped or draws)[0]
    return replace(params, lam=torch.full((2,), lam)) if isinstance(mixer, PairMixer) else params


def shares(target: Tensor, names: list[str]) -> str:
    """The classes of a target, the largest share first."""
    order = target.argsort(descending=True, stable=True).tolist()
    return " + ".join(f"{target[label]:.2f} {names[label]}" for label in order if target[label] >= 0.005)


if __name__ == "__main__":
    main()
