"""Where to mix in a timm model: the feature module, its layout, and the classifier.

Mixed features must still pass a spatial operation. The assignment has unit column sums, so alignment keeps the mean
over positions: on a map that only global pooling and a linear classifier follow, it changes nothing at all, and after
the last block of a ViT the patch tokens no longer reach the class token. So the point is the deepest map that a spatial
operation still follows. It is found by tracing the model, not by a table of names. The trace runs past all hooks on a
copy without data, and leaves the model as it was. Maps that can be read in several ways, and tokens that are dropped or
merged in training mode, are refused.

    python -m alignmix_timm.points resnet50 vit_tiny_patch16_224
    python -m alignmix_timm.points --all --save points.jsonl      # every model of timm; goes on where it stopped
    python -m alignmix_timm.points resnet50 --images DATA --boxes COLUMN      # what alignment does at each place

May import ``alignment``, ``evaluation``, ``functional``, ``nearest``, ``sinkhorn`` and ``typed``.
"""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from .layout import Layout
from .maps import MIN_SIZE, FeatureMaps
from .probe import ImageSize as ImageSize


@dataclass(frozen=True)
class MixingPoint:
    """Where a model is mixed.

    Attributes:
        feature_module: Name of the module whose output is aligned and mixed.
        layout: How that output holds positions.
        map_size: Height and width of its map at ``input_size``.
        classifiers: Names of the modules whose input is the embedding; two in distilled models.
        input_size: Image size (C, H, W) for which the point was chosen.
        reason: In words.
        embedding_size: Height and width of the embedding, where it is a map [B, C, H, W].
    """

    feature_module: str
    layout: Layout
    map_size: tuple[int, int]
    classifiers: tuple[str, ...]
    input_size: ImageSize
    reason: str
    embedding_size: tuple[int, int] | None = None

    @property
    def modules(self) -> tuple[str, ...]:
        """Names of all modules that are hooked."""
        return (self.feature_module, *self.classifiers)

    def __str__(self) -> str:
        height, width = self.map_size
        return (
            f"features at {self.feature_module} ({self.layout.kind}, {height} x {width}), {self.reason}; "
            f"embedding at the input of {' and '.join(self.classifiers)}"
        )


@contextlib.contextmanager
def unannounced() -> Iterator[None]:
    """For a caller that prints the point itself: no warning that the choice moved back to a larger map."""
    logger = logging.getLogger(f"{__name__}.maps")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def choose_point(
    model: nn.Module,
    input_size: ImageSize | None = None,
    feature_module: str | int | None = None,
    classifier: str | Sequence[str] | None = None,
) -> MixingPoint:
    """Choose where to mix.

    Args:
        model: A timm classifier, an :class:`alignmix_timm.AlignMixModel` of one, or any module that maps images to
            logits.
        input_size: (C, H, W) of the images in use; None is the size the model was built for.
        feature_module: Overrides the choice: a module's name, or an index into the candidate blocks in the order in
            which they run (-1 is the last).
        classifier: Name of the module that makes the logits, or several, where the model has no ``get_classifier()``.

    Returns:
        The point, with its reason. It depends on the input size: a smaller image leaves smaller maps.

    Raises:
        ValueError: no usable module, or ``feature_module`` is none; says what to try.
    """
    return choose_points(model, input_size, [feature_module], classifier)[0]


def choose_points(
    model: nn.Module,
    input_size: tuple[int, int, int] | None,
    feature_modules: Sequence[str | int | None],
    classifier: str | Sequence[str] | None = None,
) -> list[MixingPoint]:
    """As :func:`choose_point`, for several modules of one model, which is traced once."""
    if input_size is not None and len(input_size) != 3:
        raise ValueError(f"input_size must be (channels, height, width), got {input_size}.")
    if hooks := getattr(model, "hooks", None):  # of an AlignMixModel or Autoencoder
        model, classifier = hooks.model, classifier or hooks.classifier
    maps = FeatureMaps(model, built_for(model) if input_size is None else input_size, classifier)
    return [_point_in(maps, feature_module) for feature_module in feature_modules]


def neighbouring_points(model: nn.Module, input_size: ImageSize) -> list[MixingPoint]:
    """The default point and its neighbours, the places to compare, in the order in which they run.

    They are the deepest block with a larger map, the blocks just before and after the default point, and that point;
    none of less than 4 x 4 positions.

    Raises:
        ValueError: see :func:`choose_point`.
    """
    maps = FeatureMaps(model, input_size)
    default, _ = maps.deepest()
    sizes = {name: maps.read(name)[1] for name in maps.blocks()}
    blocks = [name for name, size in sizes.items() if min(size) >= MIN_SIZE]
    place = blocks.index(default)
    larger = [name for name in blocks[:place] if sizes[name] > sizes[default]]
    wanted = {*larger[-1:], *blocks[max(place - 1, 0) : place + 2]}
    return [_point_in(maps, None if name == default else name) for name in blocks if name in wanted]


def _point_in(maps: FeatureMaps, feature_module: str | int | None) -> MixingPoint:
    if feature_module is None:
        name, reason = maps.deepest()
    else:
        name, reason = maps.override(feature_module), "chosen by hand"
    layout, map_size = maps.read(name)
    embedding = maps.trace.inputs[maps.classifiers[0]].shape[2:]
    embedding_size = (embedding[0], embedding[1]) if len(embedding) == 2 else None
    return MixingPoint(name, layout, map_size, maps.classifiers, maps.input_size, reason, embedding_size)


def describe_points(
    model: nn.Module, input_size: ImageSize | None = None, feature_module: str | int | None = None
) -> MixingPoint:
    """Choose where to mix, as :func:`choose_point`, and print it with the reason."""
    point = choose_point(model, input_size, feature_module)
    print(f"{type(model).__name__} at images of {point.input_size}: {point}")
    return point


def built_for(model: nn.Module) -> ImageSize:
    """The image size (C, H, W) that a timm model was built for."""
    config: Any = getattr(model, "pretrained_cfg", None) or {}
    channels, height, width = config.get("input_size") or (3, 224, 224)
    built: Any = getattr(getattr(model, "patch_embed", None), "img_size", None)
    if isinstance(built, tuple | list) and len(built) == 2:
        height, width = built
    first: Any = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    if first is not None and first.in_channels < channels:  # in_chans=1; more are patches rearranged into channels
        channels = first.in_channels
    return channels, height, width
