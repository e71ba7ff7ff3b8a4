"""Manifold mixup: images or feature maps of a layer drawn for each batch, mixed position by position.

Verma et al., https://arxiv.org/abs/1806.05236.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from torch import Tensor

from ..params import MixParams, Place
from ..seeds import Stream, generator
from .contract import HookedNetwork, Mixed
from .input import mix_inputs
from .pairs import PairMixer

INPUT = "input"


@dataclass(frozen=True)
class ManifoldMixup(PairMixer):
    """Manifold mixup. Defaults: those of its paper's code, which are also the AlignMix paper's.

    Args:
        layers: One is drawn for each batch, uniformly: ``"input"``, the number of a stage (1 is the first after the
            stem), or the name of a module. The paper's: the input and the first two stages.
        alpha, prob, per_example: See :class:`PairMixer`.

    Raises:
        ValueError: an option outside its range.
    """

    name: ClassVar[str] = "manifold"

    layers: Sequence[str | int] = (INPUT, 1, 2)
    alpha: float = field(default=2.0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        layers = self.layers
        if not isinstance(layers, list | tuple) or not layers or len(set(layers)) < len(layers):
            raise ValueError(f"layers must be a list of at least one, each once, got {layers!r}. Default: input, 1, 2.")

    @property
    def feature_layers(self) -> tuple[str | int | None, ...]:
        """The layers without the input."""
        return tuple(layer for layer in self.layers if layer != INPUT)

    @property
    def mixes_inside(self) -> bool:
        """Whether there is another layer than the input."""
        return self.prob > 0 and bool(self.feature_layers)

    def draw(self, batch_size: int, place: Place) -> MixParams:
        """Draw the layer, permutation and lam."""
        layer = self.layers[int(generator(place.seed, Stream.LAYER, place.step).integers(len(self.layers)))]
        params = self._draw_pairs(batch_size, place, "input" if layer == INPUT else "feat")
        return params if params.mode == "none" else replace(params, aligned=False, layer=layer)

    def mix(self, images: Tensor, targets: Tensor, params: MixParams, net: HookedNetwork) -> Mixed:
        """Mix the targets, and at the input the images; the network mixes the maps."""
        return mix_inputs(images, targets, params)
