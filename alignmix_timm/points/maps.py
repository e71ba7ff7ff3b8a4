"""The feature maps of a model, from one traced forward pass, and which of them can be mixed."""

import logging
import math
import re
import warnings
from collections.abc import Sequence
from typing import Any

from torch import nn

from .layout import Layout
from .probe import trace
from .reading import MapReader

_logger = logging.getLogger(__name__)

MIN_SIZE = 4  # the paper's map is 4 x 4; at 2 x 2 alignment loses (its Table 8)

_SPATIAL_NAME = re.compile(r"attn|attention|mixer|mixing|token|spatial", re.IGNORECASE)
_CLASS_TOKEN_NAME = re.compile(r"class(?!if)|tokenonly|token_only", re.IGNORECASE)  # they only read the patch tokens


class FeatureMaps:
    """The feature maps of a model, from one traced forward pass."""

    def __init__(
        self, model: nn.Module, input_size: tuple[int, int, int], classifier: str | Sequence[str] | None = None
    ) -> None:
        self.input_size = input_size
        self.label = f"{type(model).__name__} at images of {input_size[1]} x {input_size[2]}"
        self.modules = dict(model.named_modules())
        self.classifiers = _classifiers(model) if classifier is None else self._named(classifier)
        self.trace = trace(model, input_size)
        silent = [name for name in self.classifiers if name not in self.trace.inputs]
        if silent:
            raise ValueError(
                f"{self.label}: its classifier {silent[0]!r} is never called, so no embedding can be mixed."
            )
        self.reader = MapReader(model, self.trace, input_size)
        self.maps = [name for name, output in self.trace.outputs.items() if name and self.reader.fits(output)]
        # What stands beside a classifier is its head, unless that is where the feature maps are.
        parents = [classifier.rpartition(".")[0] for classifier in self.classifiers]
        trunk = [parent for parent in parents if any(name.startswith(f"{parent}.") for name in self.maps)]
        self.heads = [*self.classifiers, *(parent for parent in parents if parent and parent not in trunk)]
        self.spatial = [name for name in self.trace.outputs if self._is_spatial(name)]

    def _named(self, classifier: str | Sequence[str]) -> tuple[str, ...]:
        """The classifiers that were given by name."""
        names = (classifier,) if isinstance(classifier, str) else tuple(classifier)
        missing = [name for name in names if name not in self.modules]
        if missing or not names:
            children = [name for name, _ in self.modules[""].named_children()]
            raise ValueError(
                f"classifier must be the name of a module of {self.label}, or several, got {classifier!r}. Its parts "
                f"are {children}."
            )
        return names

    def deepest(self) -> tuple[str, str]:
        """The last large enough block that a spatial operation follows, and the reason in words."""
        order = {name: index for index, name in enumerate(self.trace.outputs)}
        passed_over = ""
        for block in reversed(self._candidates()):
            after = (name for name in self.spatial if order[name] > order[block])
            followers = [name for name in after if not block.startswith(f"{name}.")]
            if not followers or not self.trace.dominates(block):
                continue
            found = self.reader.read(block)
            if found is None:
                continue
            height, width = found[1]
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
            raise ValueError(
                f"module {wanted!r} {why} in {self.label}. As feature_module, or as a layer of a mixer, choose one of "
                f"its blocks: {blocks}."
            )
        height, width = self.read(wanted)[1]
        if min(height, width) < MIN_SIZE:
            warnings.warn(f"the map at {wanted!r} is {height} x {width}, under {MIN_SIZE} x {MIN_SIZE}.", stacklevel=3)
        if not self.trace.dominates(wanted):
            warnings.warn(f"the logits depend on more than {wanted!r}: what by-passes it is not mixed.", stacklevel=3)
        return wanted

    def read(self, name: str) -> tuple[Layout, tuple[int, int]]:
        """Layout and size of the map that a module returns.

        Raises:
            ValueError: as :meth:`MapReader.read`, or the map is [B, C, N].
        """
        if (found := self.reader.read(name)) is None:
            raise ValueError(
                f"module {name!r} returns channels before positions, {('B', *self.trace.outputs[name].shape[1:])}, in "
                f"{self.label}. As feature_module, or as a layer of a mixer, choose one of its blocks: {self.blocks()}."
            )
        return found

    def blocks(self) -> list[str]:
        """Candidate blocks for ``feature_module`` as an index: those on whose map the logits depend alone."""
        return [name for name in self._candidates() if self.trace.dominates(name)]

    def _candidates(self) -> list[str]:
        """Modules that hold a spatial operation and return a map, in the order in which they finish.

        Where a module returns what its last part returned, the part stands for both.
        """
        holders = {above for name in self.spatial for above in _ancestors(name)[:-1]}
        found: dict[Any, str] = {}
        for name in self.maps:
            if name in holders and not self._reads_class_token(name) and not self._in_head(name):
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
        return any(_CLASS_TOKEN_NAME.search(_own_names(above, self.modules[above])) for above in _ancestors(name))

    def _in_head(self, name: str) -> bool:
        """Whether the module is a classifier or stands beside it in a head."""
        return any(name == head or name.startswith(f"{head}.") for head in self.heads)


def _ancestors(name: str) -> list[str]:
    """Names of the modules that hold a module, from the outermost to itself."""
    parts = name.split(".")
    return [".".join(parts[:depth]) for depth in range(1, len(parts) + 1)]


def _own_names(name: str, module: nn.Module) -> str:
    return f"{name.rpartition('.')[2]} {type(module).__name__}"


def _largest(size: int | tuple[int, ...]) -> int:
    return max(size, default=1) if isinstance(size, tuple) else size


def _classifiers(model: nn.Module) -> tuple[str, ...]:
    """Names of the modules whose input is the embedding."""
    label = type(model).__name__
    if not hasattr(model, "get_classifier"):
        raise ValueError(
            f"{label} has no get_classifier(), as timm's classifiers do: name the module that makes the logits, such "
            "as classifier='fc'."
        )
    get_classifier: Any = model.get_classifier
    found = get_classifier()
    names = {id(module): name for name, module in model.named_modules()}
    heads, pending = [], [found]
    while pending:
        head = pending.pop(0)
        if isinstance(head, dict | nn.ModuleDict):  # a head for each task
            head = list(head.values())
        if isinstance(head, tuple | list | nn.ModuleList):  # distilled models, and heads of every stage
            pending[:0] = list(head)
            continue
        head = getattr(head, "fc", head)
        if not isinstance(head, nn.Module) or id(head) not in names:
            raise ValueError(f"get_classifier() of {label} returns {type(head).__name__}, not a module of the model.")
        heads.append(names[id(head)])
    return tuple(heads)
