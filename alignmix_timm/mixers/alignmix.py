"""AlignMix: features aligned by optimal transport, then mixed; images and embeddings mixed as they are.

Venkataramanan et al., Algorithm 1 (https://arxiv.org/abs/2103.15375).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from ..params import FEATURE_MODES, MODES, DrawOptions, MixParams, Mode, Place, check_draw_options, draw
from .contract import HookedNetwork, Mixed, Mixer
from .input import mix_inputs


@dataclass(frozen=True)
class AlignMixup(Mixer):
    """AlignMix with the paper's settings as defaults.

    The alignment itself (epsilon and the rest) belongs to the hooked network: see :class:`alignmix_timm.Alignment`.

    Args:
        alpha, modes, weights, prob, per_example: See :func:`alignmix_timm.draw`.
        aligned: False mixes features position by position, for comparison.

    Raises:
        ValueError: an option outside its range.
    """

    name: ClassVar[str] = "alignmix"

    alpha: float = 2.0
    modes: Sequence[Mode] = MODES
    weights: Sequence[float] | None = None
    prob: float = 1.0
    per_example: bool = True
    aligned: bool = True

    def __post_init__(self) -> None:
        check_draw_options(self.alpha, self.modes, self.weights, self.prob)

    @property
    def aligns(self) -> bool:
        """Whether some batch it draws is aligned."""
        return self.aligned and bool(self._drawn & set(FEATURE_MODES))

    @property
    def mixes_inside(self) -> bool:
        """Whether features or embeddings are mixed in some batch."""
        return bool(self._drawn - {"input", "none", "clean"})

    @property
    def feature_layers(self) -> tuple[str | int | None, ...]:
        """The mixing point, before which images alone are mixed."""
        return (None,) if self.mixes_inside else ()

    @property
    def _drawn(self) -> set[Mode]:
        """The modes that are drawn at all."""
        weights = [1.0] * len(self.modes) if self.weights is None else self.weights
        return {mode for mode, weight in zip(self.modes, weights, strict=True) if weight > 0 and self.prob > 0}

    def draw(self, batch_size: int, place: Place) -> MixParams:
        """Draw mode, permutation and lam: see :func:`alignmix_timm.draw`."""
        params = draw(
            batch_size,
            *place,
            alpha=self.alpha,
            modes=self.modes,
            weights=self.weights,
            prob=self.prob,
            per_example=self.per_example,
        )
        return replace(params, aligned=self.aligned)

    def mix(self, images: Tensor, targets: Tensor, params: MixParams, net: HookedNetwork) -> Mixed:
        """Mix the targets, and in mode ``input`` the images; the network mixes the rest."""
        return mix_inputs(images, targets, params)


def drawn_by(mixer: Mixer | None, options: DrawOptions) -> Mixer:
    """The mixer that was given, or AlignMix with these options.

    Raises:
        ValueError: both were given, or an option is outside its range.
    """
    if mixer is None:
        return AlignMixup(**options)
    if options:
        raise ValueError(f"{', '.join(options)} must be an option of the mixer where one is given, not beside it.")
    return mixer
