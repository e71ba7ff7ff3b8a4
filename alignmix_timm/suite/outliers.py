"""The sets of out-of-distribution images: noise, and images of any data, at the size of the model."""

import argparse
import functools
import math
import re
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import center_crop, resize, to_tensor

from ..evaluation.ood import NOISE
from .context import Context, Pixels
from .data import Data, Images, load_data

FITS = ("resize", "crop")
_FORMS = "NAME=DATA or NAME=DATA:SPLIT, with ,config=CONFIG and ,image=COLUMN where they are needed"
_OPTION = re.compile(r",(?=(?:config|image)=)")
_EQUAL, _VARIED = 1e-5, 1e-3  # of the largest logit: what rounding changes, and what distinguishes images


class Named(NamedTuple):
    """What ``NAME=DATA:SPLIT,config=CONFIG,image=COLUMN`` names, all but DATA optional; without data, noise."""

    name: str
    data: str | None = None
    split: str | None = None
    config: str | None = None
    image: str | None = None


def parse_sets(texts: list[str]) -> list[Named]:
    """The sets that an option names.

    Raises:
        ValueError: one is neither noise nor NAME=DATA, or two have one name.
    """
    sets = [_parse(text) for text in texts]
    names = [one.name for one in sets]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"ood_outliers must have different names, got {twice[0]!r} twice: pass OTHER_NAME=DATA.")
    return sets


def _parse(text: str) -> Named:
    name, equals, rest = text.partition("=")
    if not equals and name in NOISE:
        return Named(name)
    data, *options = _OPTION.split(rest)
    if not data or not re.fullmatch(r"[\w.-]+", name):
        raise ValueError(
            f"ood_outliers must be {', '.join(NOISE)}, {_FORMS}, and NAME of letters, digits, _, - and ., got {text!r}."
        )
    chosen = dict(option.split("=", 1) for option in options)
    whole, colon, split = data.rpartition(":")
    if colon and whole and not Path(data).expanduser().exists():
        return Named(name, whole, split, **chosen)
    return Named(name, data, **chosen)


@functools.cache  # looked at before anything is measured, and again when it is
def load_set(one: Named, count: int | None, seed: int) -> Data:
    """The rows of a set of images; arguments as those of :func:`.data.load_data`."""
    assert one.data is not None
    try:
        return load_data(one.data, one.split, data_config=one.config, image_column=one.image, count=count, seed=seed)
    except ValueError as error:
        raise ValueError(f"the outliers {one.name!r} cannot be used: {error} Of outliers, pass {_FORMS}.") from error


def check_others(sets: list[Named], context: Context) -> None:
    """See that outliers are not the data that they are to be told from.

    Raises:
        ValueError: they are the same dataset, or most of their images are among its images.
    """
    known = set(context.data.digests) if sets else set()
    for one in sets:
        _check_other(one, load_set(one, context.options.rows, context.options.seed), known, context)


def _check_other(one: Named, outliers: Data, known: set[bytes], context: Context) -> None:
    assert one.data is not None
    if one.config == context.options.data_config and _same(one.data, context.options.data):
        raise ValueError(
            f"the outliers {one.name!r} must be other data than {context.options.data!r}, whose other splits are "
            "in-distribution, too. Pass another dataset."
        )
    shared = sum(digest in known for digest in outliers.digests)
    if 2 * shared > len(outliers.rows):
        raise ValueError(
            f"the outliers {one.name!r} must be other images than the data, and {shared} of {len(outliers.rows)} are "
            "among them. Pass another dataset."
        )
    if shared:
        context.say(f"{shared} of the {len(outliers.rows)} outliers {one.name!r} are images of the data.")


def check_logits(name: str, inliers: Tensor, outliers: Tensor) -> None:
    """See that outliers are no copies of the data in another format, which have the same logits in some order.

    Raises:
        ValueError: they have.
    """
    first, second = (logits.double().amax(1).sort().values for logits in (inliers, outliers))
    scale = float(first.abs().max())
    varied = bool(first[-1] - first[0] > _VARIED * scale)  # a network may be constant
    if varied and first.shape == second.shape and torch.allclose(first, second, rtol=0, atol=_EQUAL * scale):
        raise ValueError(
            f"the outliers {name!r} must be other images than the data, and their logits are the same. Pass another "
            "dataset."
        )


def _same(first: str, second: str) -> bool:
    paths = Path(first).expanduser(), Path(second).expanduser()
    return paths[0].resolve() == paths[1].resolve() if all(path.exists() for path in paths) else first == second


def pixels_of(one: Named, context: Context) -> Pixels:
    """The images of a set, [C, H, W] in [0, 1]."""
    size, options = tuple(context.subject.preprocessing["input_size"]), context.options
    if one.data is None:
        return _Noise(one.name, context.images, size, options)
    data = load_set(one, options.rows, options.seed)
    transform = functools.partial(fit, size=size[1:], how=options.ood_fit)
    return Images(data.rows, data.image, context.subject.mode, transform)


class _Noise:
    """As many images of noise as there are images of the data."""

    def __init__(self, name: str, images: Pixels, size: tuple[int, ...], options: argparse.Namespace) -> None:
        self.images, self.additive = images, options.ood_additive
        more = {"std": options.ood_noise_std} if name == "gaussian" else {}
        self.draw = functools.partial(NOISE[name], shape=size, seed=options.seed, **more)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> Tensor:
        return self.draw([row], images=self.images[row][None] if self.additive else None)[0]


def fit(picture: Image.Image, size: tuple[int, int], how: str) -> Tensor:
    """Pixels [C, H, W] in [0, 1] of a picture at a size (H, W).

    ``resize`` scales the whole picture, whatever its aspect ratio. ``crop`` takes its middle as it is; a picture that
    is smaller is enlarged first, until it covers the size. Both are bilinear, with antialiasing.
    """
    height, width = size
    scale = max(height / picture.height, width / picture.width)
    if how == "resize":
        picture = resize(picture, [height, width], InterpolationMode.BILINEAR)
    elif scale > 1:
        sides = [math.ceil(round(side * scale, 6)) for side in (picture.height, picture.width)]
        picture = resize(picture, sides, InterpolationMode.BILINEAR)
    return to_tensor(center_crop(picture, [height, width]))
