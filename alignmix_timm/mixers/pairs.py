"""What mixers of pairs share: options, and the draw of partners and shares."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from ..params import MixParams, Mode, Place, check_draw_options, draw
from ..seeds import Stream, generator
from .contract import Mixer


@dataclass(frozen=True, kw_only=True)
class PairMixer(Mixer):
    """Mixes each example with one partner; a subclass says how, and names its source.

    Args:
        alpha: lam ~ Beta(alpha, alpha), > 0.
        prob: Probability that a batch is mixed, in [0, 1].
        per_example: One lam for each example, or one for the batch.

    Raises:
        ValueError: an option outside its range.
    """

    alpha: float = 1.0
    prob: float = 1.0
    per_example: bool = False

    def __post_init__(self) -> None:
        check_draw_options(self.alpha, prob=self.prob)

    def draw(self, batch_size: int, place: Place) -> MixParams:
        """Draw permutation and lam, and what else this mixer needs."""
        params = self._draw_pairs(batch_size, place)
        if params.mode == "none":
            return params
        count = batch_size if self.per_example else 1
        drawn = self._draw_extra(generator(place.seed, Stream.REGION, *place[1:]), batch_size, count)
        spread = {name: np.broadcast_to(value, (batch_size, *value.shape[1:])) for name, value in drawn.items()}
        return replace(params, extra={name: torch.from_numpy(one.astype(np.float32)) for name, one in spread.items()})

    def _draw_extra(self, rng: np.random.Generator, batch_size: int, count: int) -> dict[str, np.ndarray]:
        """What a subclass draws beside, by name: for each example, or once for the batch, [batch_size or 1, ...].

        Args:
            rng: Of this place.
            batch_size: Number of examples.
            count: How many of them have lam of their own: all, or 1.
        """
        return {}

    def _draw_pairs(self, batch_size: int, place: Place, mode: Mode = "input") -> MixParams:
        params = draw(batch_size, *place, alpha=self.alpha, modes=(mode,), prob=self.prob, per_example=self.per_example)
        return params if params.mode == "none" else replace(params, mixer=self.name)
