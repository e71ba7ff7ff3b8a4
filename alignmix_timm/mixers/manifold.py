"""Manifold mixup: images or feature maps of a layer drawn for each batch, mixed position by position.

Verma et al., https://arxiv.org/abs/1806.05236.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from ..params import MixParams, Place, check_draw_options, draw
from ..seeds import Stream, generator
from .contract import HookedNetwork, Mixed, Mixer
from .input import mix_inputs

INPUT = "input"


@dataclass(frozen=True)
class ManifoldMixup(Mixer):
    """Manifold mixup. Defaults: those of its paper's code, which are also the AlignMix paper's.

    Args:
        layers: One is drawn for each batch, uniformly: ``"input"``, the number of a stage (1 is the first after the
            stem), or the name of a module. The paper's: the input and the first two stages.
        alpha: lam ~ Beta(alpha, alpha), > 0.
        prob: Probability that a batch is mixed, in [0, 1].
        per_example: One lam for each example, or one for the batch.

    Raises:
        ValueError: an option outside its range.
    """

    name: ClassVar[str] = "manifold"

    layers: Sequence[str | int] = (INPUT, 1, 2)
    alpha: float = 2.0
    prob: float = 1.0
    per_example: bool = False

    def __post_init__(self) -> None:
        check_draw_options(self.alpha, prob=self.prob)
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
        params = draw(
            batch_size,
            *place,
            alpha=self.alpha,
            modes=("input" if layer == INPUT else "feat",),
            prob=self.prob,
            per_example=self.per_example,
        )
        return params if params.mode == "none" else replace(params, mixer=self.name, aligned=False, layer=layer)

    def mix(self, images: Tensor, targets: Tensor, params: MixParams, net: HookedNetwork) -> Mixed:
        """Mix the targets, and at the input the images; the network mixes the maps."""
        return mix_inputs(images, targets, params)
