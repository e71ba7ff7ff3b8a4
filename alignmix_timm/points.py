"""Where to mix in a timm model: the feature module, its layout, and the classifier.

Mixed features must still pass a spatial operation. The assignment has unit column sums, so alignment keeps the mean
over positions: on a map that only global pooling and a linear classifier follow, it changes nothing at all, and after
the last block of a ViT the patch tokens no longer reach the class token. So the point is the deepest map that a spatial
operation still follows. It is found by tracing the model, not by a table of names.
"""

import logging
import math
import re
import warnings
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from .layout import Layout
from .probe import BATCH, trace

_logger = logging.getLogger(__name__)

MIN_SIZE = 4  # the paper's map is 4 x 4; at 2 x 2 alignment loses (its Table 8)

_SPATIAL_NAME = re.compile(r"attn|attention|mixer|mixing|token|spatial", re.IGNORECASE)
_CLASS_TOKEN_NAME = re.compile(r"class(?!if)|tokenonly|token_only", re.IGNORECASE)  # they only read the patch tokens


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
    """

    feature_module: str
    layout: Layout
    map_size: tuple[int, int]
    classifiers: tuple[str, ...]
    input_size: tuple[int, int, int]
    reason: str

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


def choose_point(
    model: nn.Module, input_size: tuple[int, int, int] | None = None, feature_module: str | int | None = None
) -> MixingPoint:
    """Choose where to mix.

    Args:
        model: A timm classifier, or any module with ``get_classifier()`` that maps images to logits.
        input_size: (C, H, W) of the images in use; None is the size the model was built for.
        feature_module: Overrides the choice: a module's name, or an index into the candidate blocks in the order in
            which they run (-1 is the last).

    Returns:
        The point, with its reason. It depends on the input size: a smaller image leaves smaller maps.

    Raises:
        ValueError: no usable module, or ``feature_module`` is none; says what to try.
    """
    if input_size is not None and len(input_size) != 3:
        raise ValueError(f"input_size must be (channels, height, width), got {input_size}.")
    maps = _Maps(model, built_for(model) if input_size is None else input_size)
    if feature_module is None:
        name, reason = maps.deepest()
    else:
        name, reason = maps.override(feature_module), "chosen by hand"
    layout, map_size = maps.maps[name]
    return MixingPoint(name, layout, map_size, maps.classifiers, maps.input_size, reason)


class _Maps:
    """The feature maps of a model, from one traced forward pass."""

    def __init__(self, model: nn.Module, input_size: tuple[int, int, int]) -> None:
        self.input_size = input_size
        self.label = f"{type(model).__name__} at images of {input_size[1]} x {input_size[2]}"
        self.modules = dict(model.named_modules())
        self.classifiers = _classifiers(model)
        self.trace = trace(model, input_size)
        prefix = getattr(model, "num_prefix_tokens", 0)
        self.maps: dict[str, tuple[Layout, tuple[int, int]]] = {}
        for name, output in self.trace.outputs.items():
            if name and (found := _find_map(output, input_size, prefix)):
                self.maps[name] = found
        # What stands beside a classifier is its head, unless that is where the feature maps are.
        parents = [classifier.rpartition(".")[0] for classifier in self.classifiers]
        trunk = [parent for parent in parents if any(name.startswith(f"{parent}.") for name in self.maps)]
        self.heads = [*self.classifiers, *(parent for parent in parents if parent and parent not in trunk)]

    def deepest(self) -> tuple[str, str]:
        """The last large enough block that a spatial operation follows, and the reason in words."""
        order = {name: index for index, name in enumerate(self.trace.outputs)}
        spatial = [name for name in order if self._is_spatial(name)]
        passed_over = ""
        for block in reversed(self.blocks()):
            followers = [name for name in spatial if order[name] > order[block] and not block.startswith(f"{name}.")]
            if not followers:
                continue
            height, width = self.maps[block][1]
            if min(height, width) >= MIN_SIZE:
                if passed_over:
                    _logger.warning("AlignMix mixes %s at %s%s.", self.label, block, passed_over)
                follower = min(followers, key=lambda name: name.count("."))
                return block, f"the deepest map that a spatial operation follows ({follower}){passed_over}"
            passed_over = passed_over or f", {block} passed over because its map is {height} x {width}"
        raise ValueError(
            f"{self.label} has no map of at least {MIN_SIZE} x {MIN_SIZE} positions on which the logits depend alone "
            f"and which a spatial operation follows{passed_over}. Use larger images, or name a module of your choice: "
            "feature_module='...'."
        )

    def override(self, wanted: str | int) -> str:
        """The module that was asked for by name or index, if it can be mixed at all."""
        blocks = self.blocks()
        if isinstance(wanted, int):
            if not -len(blocks) <= wanted < len(blocks):
                raise ValueError(
                    f"feature_module must be an index into the {len(blocks)} blocks {blocks}, got {wanted}."
                )
            return blocks[wanted]
        if wanted not in self.maps:
            if wanted not in self.modules:
                why = "does not exist"
            elif wanted not in self.trace.outputs:
                why = "is never called"
            else:
                why = f"has no spatial positions, it returns {('B', *self.trace.outputs[wanted].shape[1:])}"
            raise ValueError(f"feature_module {wanted!r} {why} in {self.label}. Choose one of its blocks: {blocks}.")
        height, width = self.maps[wanted][1]
        if min(height, width) < MIN_SIZE:
            warnings.warn(f"the map at {wanted!r} is {height} x {width}, under {MIN_SIZE} x {MIN_SIZE}.", stacklevel=3)
        if not self.trace.dominates(wanted):
            warnings.warn(f"the logits depend on more than {wanted!r}: what by-passes it is not mixed.", stacklevel=3)
        return wanted

    def blocks(self) -> list[str]:
        """Modules that hold a spatial operation and return a map on which the logits depend alone, as they finish.

        Where a module returns what its last part returned, the part stands for both.
        """
        found: dict[Any, str] = {}
        for name in self.maps:
            if (
                any(self._is_spatial(part) for part in self.trace.outputs if part.startswith(f"{name}."))
                and not self._reads_class_token(name)
                and not self._in_head(name)
                and self.trace.dominates(name)
            ):
                found.setdefault(self.trace.nodes[name], name)
        return list(found.values())

    def _is_spatial(self, name: str) -> bool:
        """Whether this module mixes positions: a kernel larger than 1 on a map, or a token mixer by its name."""
        if not name or name not in self.trace.inputs.keys() & self.trace.outputs.keys():
            return False
        if self._in_head(name) or self._reads_class_token(name):
            return False
        kernel = getattr(self.modules[name], "kernel_size", 1)
        if isinstance(kernel, int | tuple) and _largest(kernel) > 1:
            return _largest(tuple(self.trace.inputs[name].shape[2:])) > 1
        many_tokens = math.prod(self.trace.outputs[name].shape[1:-1]) > 1  # perhaps in windows, or a batch of heads
        return many_tokens and bool(_SPATIAL_NAME.search(_own_names(name, self.modules[name])))

    def _reads_class_token(self, name: str) -> bool:
        parts = name.split(".")
        ancestors = (".".join(parts[:depth]) for depth in range(1, len(parts) + 1))
        return any(_CLASS_TOKEN_NAME.search(_own_names(above, self.modules[above])) for above in ancestors)

    def _in_head(self, name: str) -> bool:
        """Whether the module is a classifier or stands beside it in a head."""
        return any(name == head or name.startswith(f"{head}.") for head in self.heads)


def _own_names(name: str, module: nn.Module) -> str:
    return f"{name.rpartition('.')[2]} {type(module).__name__}"


def _largest(size: int | tuple[int, ...]) -> int:
    return max(size, default=1) if isinstance(size, tuple) else size


def _find_map(output: Tensor, input_size: tuple[int, int, int], prefix: int) -> tuple[Layout, tuple[int, int]] | None:
    """Read a traced output as a map with the aspect ratio of the image; None if it has no positions."""
    shape = tuple(output.shape)
    if shape[0] != BATCH:
        return None
    layouts: list[Layout] = []
    if len(shape) == 4:
        layouts = [Layout("NCHW"), Layout("NHWC")]
    elif len(shape) == 3:
        square = shape[1] - math.isqrt(shape[1]) ** 2
        layouts = [Layout("NLC", count) for count in dict.fromkeys((prefix, 0, square))]
    image = (input_size[1], input_size[2])
    grids = [(layout, layout.grid(shape, image)) for layout in layouts]
    fits = [(_misfit(grid, image), layout, grid) for layout, grid in grids if math.prod(grid) > 1]
    misfit, layout, grid = min(fits, key=lambda fit: fit[0], default=(math.inf, Layout("NCHW"), (0, 0)))
    return (layout, grid) if misfit < 1 else None


def _misfit(grid: tuple[int, int], image: tuple[int, int]) -> float:
    """By how many positions a map differs from the image shrunk to as many positions; none may, if it is square."""
    stride = math.sqrt(math.prod(image) / math.prod(grid))
    misfit = abs(grid[0] - image[0] / stride)
    return misfit if image[0] != image[1] or grid[0] == grid[1] else math.inf


def _classifiers(model: nn.Module) -> tuple[str, ...]:
    """Names of the modules whose input is the embedding."""
    label = type(model).__name__
    if not hasattr(model, "get_classifier"):
        raise ValueError(f"{label} has no get_classifier(): AlignMix needs a timm classifier, not a feature extractor.")
    get_classifier: Any = model.get_classifier
    found = get_classifier()
    names = {id(module): name for name, module in model.named_modules()}
    heads = []
    for head in found if isinstance(found, tuple | list) else (found,):
        head = getattr(head, "fc", head)
        if not isinstance(head, nn.Module) or id(head) not in names:
            raise ValueError(f"get_classifier() of {label} returns {type(head).__name__}, not a module of the model.")
        heads.append(names[id(head)])
    return tuple(heads)


def built_for(model: nn.Module) -> tuple[int, int, int]:
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
