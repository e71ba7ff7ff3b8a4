"""Which dimensions of a traced output are positions. One shape does not always tell.

An output [B, 4, 32, 256] of images of 128 x 1024 may be a map of 4 x 32 in NHWC or of 32 x 256 in NCHW. Where several
readings fit, the shapes at a second image size tell: channels stay as many, positions become more. Where the model runs
at no other size, the maps of its convolutions tell, whose layout is known, and that a map has one stride in both
directions. What remains in doubt is refused.
"""

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from .layout import Layout
from .probe import BATCH, ImageSize, Trace, trace_resized, trace_training

Grid = tuple[int, int]


@dataclass(frozen=True)
class Reading:
    """One way to read an output: its layout, None for tokens behind the channels, [B, C, N], which are not mixed."""

    layout: Layout | None
    grid: Grid
    channels: int

    def __str__(self) -> str:
        height, width = self.grid
        kind = "channels before positions" if self.layout is None else self.layout.kind
        prefix = f" with {self.layout.num_prefix} prefix tokens" if self.layout and self.layout.num_prefix else ""
        return f"{kind}, {height} x {width}{prefix}"


class MapReader:
    """Reads the outputs of a traced model as maps.

    Args:
        model: The model.
        first: Its trace.
        input_size: (C, H, W) of the images in that trace.
    """

    def __init__(self, model: nn.Module, first: Trace, input_size: ImageSize) -> None:
        self.model, self.first, self.input_size = model, first, input_size
        self.prefix: int | None = getattr(model, "num_prefix_tokens", None)
        self._resized: dict[ImageSize, Trace] = {}

    def fits(self, output: Tensor, input_size: ImageSize | None = None) -> list[Reading]:
        """Every way to read an output as a map with the aspect ratio of the image, the best fit first."""
        if output.shape[0] != BATCH:
            return []
        image = (input_size or self.input_size)[1:]
        found = [reading for reading in self._readings(tuple(output.shape), image) if math.prod(reading.grid) > 1]
        fitting = [reading for reading in found if _misfit(reading.grid, image) < 1]
        return sorted(dict.fromkeys(fitting), key=lambda reading: _misfit(reading.grid, image))

    def read(self, name: str) -> tuple[Layout, Grid] | None:
        """Layout and size of the map that a module returns, the model itself by ``""``; None if it is no map.

        Raises:
            ValueError: the output can be read in several ways, and nothing tells which is right; or tokens are dropped
                or merged in training mode.
        """
        output = self.first.outputs.get(name)
        if output is None or not (found := self.fits(output)):
            return None
        for narrow in (self._by_second_size, self._by_convolutions, self._by_stride):
            if len(found) > 1:
                found = narrow(found, name) or found
        label = repr(name) if name else "the model"
        if len(found) > 1:
            raise ValueError(
                f"the output {_shape(output)} of {label} at images of {self.input_size[1]} x {self.input_size[2]} can "
                f"be read as {' or as '.join(map(str, found))}, and the model does not run at an image size that would "
                "tell. Name another module, feature_module='...', or use images of another size."
            )
        layout = found[0].layout
        if layout is None:
            return None
        trained = self._training.outputs.get(name, output) if layout.kind == "NLC" else output
        if trained.shape != output.shape:
            raise ValueError(
                f"{label} returns {_shape(trained)} in training mode and {_shape(output)} in eval mode: where tokens "
                "are dropped or merged, the positions of the others are not known. Build the model without "
                "(patch_drop_rate=0), or name a module before that, feature_module='...'."
            )
        return layout, found[0].grid

    @functools.cached_property
    def _training(self) -> Trace:
        return trace_training(self.model, self.input_size)

    def _readings(self, shape: tuple[int, ...], image: Grid) -> Iterator[Reading]:
        if len(shape) == 4:
            yield Reading(Layout("NCHW"), (shape[2], shape[3]), shape[1])
            yield Reading(Layout("NHWC"), (shape[1], shape[2]), shape[3])
        elif len(shape) == 3:
            for count in self._prefixes(shape[1], image):
                for grid in _grids(shape[1] - count, image):
                    yield Reading(Layout("NLC", count), grid, shape[2])
            for count in {self.prefix or 0, 0}:
                for grid in _grids(shape[2] - count, image):
                    yield Reading(None, grid, shape[1])

    def _prefixes(self, tokens: int, image: Grid) -> set[int]:
        """How many of the tokens may have no position. Models that do not say it: any number that leaves a square."""
        if self.prefix is not None:
            return {0, self.prefix}
        return {0, tokens - math.isqrt(tokens) ** 2} if image[0] == image[1] else {0, 1, 2}

    def _by_second_size(self, found: list[Reading], name: str) -> list[Reading]:
        """Those with as many channels, and a map that has grown with the image, at a second image size."""
        channels, height, width = self.input_size
        for factors in ((2, 2), (1, 2), (2, 1)):
            larger = (channels, factors[0] * height, factors[1] * width)
            if larger not in self._resized:
                self._resized[larger] = trace_resized(self.model, larger)
            if (output := self._resized[larger].outputs.get(name)) is not None:
                then = self.fits(output, larger)
                return [reading for reading in found if any(_grew(reading, other, factors) for other in then)]
        return found

    def _by_convolutions(self, found: list[Reading], name: str) -> list[Reading]:
        """Those whose map has the size of that of a convolution, which is NCHW."""
        convolutions = {name for name, module in self.model.named_modules() if isinstance(module, nn.Conv2d)}
        sizes = {tuple(self.first.outputs[name].shape[2:]) for name in convolutions & self.first.outputs.keys()}
        return [reading for reading in found if reading.grid in sizes]

    def _by_stride(self, found: list[Reading], name: str) -> list[Reading]:
        """Those whose map has one stride in both directions."""
        return [reading for reading in found if _one_stride(reading.grid, self.input_size[1:])]


def _shape(output: Tensor) -> tuple[str | int, ...]:
    return ("B", *output.shape[1:])


def _one_stride(grid: Grid, image: tuple[int, ...]) -> bool:
    """Whether there is a stride at which height and width of the image make this map, rounded up or down."""
    most = [size / max(count - 1, 1e-9) for size, count in zip(image, grid, strict=True)]
    least = [size / (count + 1) for size, count in zip(image, grid, strict=True)]
    return max(least) < min(most)


def _grew(reading: Reading, other: Reading, factors: tuple[int, int]) -> bool:
    """Whether two readings hold the same channels, and the other map is larger by these factors, but for rounding."""
    sizes = zip(reading.grid, other.grid, factors, strict=True)
    same = (reading.layout, reading.channels) == (other.layout, other.channels)
    return same and all(abs(after - factor * before) <= factor for before, after, factor in sizes)


def _grids(tokens: int, image: Grid) -> list[Grid]:
    """The grids of so many positions that differ least from the aspect ratio of the image."""
    if tokens < 2:
        return []
    ideal = math.sqrt(tokens * image[0] / image[1])
    heights = range(max(1, math.ceil(ideal - 1)), math.floor(ideal + 1) + 1)
    return [(height, tokens // height) for height in heights if tokens % height == 0]


def _misfit(grid: Grid, image: tuple[int, ...]) -> float:
    """By how many positions a map differs from the image shrunk to as many positions; none may, if it is square."""
    stride = math.sqrt(math.prod(image) / math.prod(grid))
    misfit = abs(grid[0] - image[0] / stride)
    return misfit if image[0] != image[1] or grid[0] == grid[1] else math.inf
