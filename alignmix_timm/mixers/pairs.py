"""What mixers of pairs share: options, and the draw of partners and shares."""

from dataclasses import dataclass, replace

from ..params import MixParams, Mode, Place, check_draw_options, draw
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
        """Draw permutation and lam."""
        return self._draw_pairs(batch_size, place)

    def _draw_pairs(self, batch_size: int, place: Place, mode: Mode = "input") -> MixParams:
        params = draw(batch_size, *place, alpha=self.alpha, modes=(mode,), prob=self.prob, per_example=self.per_example)
        return params if params.mode == "none" else replace(params, mixer=self.name)
