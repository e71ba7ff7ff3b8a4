"""Several mixers in turns, and none: one is drawn for each step."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from torch import Tensor

from ..params import MixParams, Place, unmixed
from ..seeds import Stream, generator
from .contract import HookedNetwork, Mixed, Mixer


@dataclass(frozen=True)
class NoMixing(Mixer):
    """Leaves every batch as it is."""

    name: ClassVar[str] = "none"

    def draw(self, batch_size: int, place: Place) -> MixParams:
        """Nothing is drawn."""
        return unmixed(batch_size)

    def mix(self, images: Tensor, targets: Tensor, params: MixParams, net: HookedNetwork) -> Mixed:
        """Never called: its batches have mode ``none``."""
        return Mixed(images, targets)


@dataclass(frozen=True)
class OneOf(Mixer):
    """Draws one of several mixers for each step, the same in all processes.

    Args:
        mixers: Mixers of different names; give one a larger share by ``probabilities``.
        probabilities: Relative frequency of each; None is uniform.
        prob: Probability that a batch is given to one of them at all, in [0, 1].
        until: Step from which on nothing is mixed; None is never.

    Raises:
        ValueError: no mixers, two of one name, or an option outside its range.
    """

    name: ClassVar[str] = "one_of"

    mixers: Sequence[Mixer]
    probabilities: Sequence[float] | None = None
    prob: float = 1.0
    until: int | None = None

    def __post_init__(self) -> None:
        if not self.mixers or len(set(self.names)) < len(self.names):
            raise ValueError(f"mixers must be at least one, of different names, got {self.names}.")
        shares = self.probabilities
        if shares is not None and (len(shares) != len(self.mixers) or min(shares) < 0 or not sum(shares) > 0):
            raise ValueError(
                f"probabilities must be one number >= 0 for each of {len(self.mixers)} mixers, not all 0, got {shares}."
            )
        if not 0 <= self.prob <= 1:
            raise ValueError(f"prob must be in [0, 1], got {self.prob}.")
        if self.until is not None and self.until < 0:
            raise ValueError(f"until must be >= 0, or None, got {self.until}.")

    def __str__(self) -> str:
        return " or ".join(str(mixer) for mixer in self.mixers)

    @property
    def aligns(self) -> bool:
        """Whether some batch it draws is aligned."""
        return any(mixer.aligns for mixer in self._drawn())

    @property
    def mixes_inside(self) -> bool:
        """Whether one of its mixers mixes inside the network."""
        return any(mixer.mixes_inside for mixer in self._drawn())

    @property
    def feature_layers(self) -> tuple[str | int | None, ...]:
        """Those of its mixers."""
        return tuple(dict.fromkeys(layer for mixer in self.mixers for layer in mixer.feature_layers))

    @property
    def names(self) -> tuple[str, ...]:
        """Those of its mixers."""
        return tuple(name for mixer in self.mixers for name in mixer.names)

    def for_drawing(self) -> "OneOf":
        """Of mixers for drawing."""
        return replace(self, mixers=tuple(mixer.for_drawing() for mixer in self.mixers))

    def draw(self, batch_size: int, place: Place) -> MixParams:
        """Draw a mixer, and let it draw."""
        given, choice = generator(place.seed, Stream.MIXER, place.step).random(2)
        if given >= self.prob or (self.until is not None and place.step >= self.until):
            return unmixed(batch_size)
        shares = np.cumsum(np.ones(len(self.mixers)) if self.probabilities is None else self.probabilities)
        return self.mixers[int(np.searchsorted(shares / shares[-1], choice, side="right"))].draw(batch_size, place)

    def mix(self, images: Tensor, targets: Tensor, params: MixParams, net: HookedNetwork) -> Mixed:
        """Mix by the mixer that drew."""
        mixer = next(mixer for mixer in self.mixers if params.mixer in mixer.names)
        return mixer.mix(images, targets, params, net)

    def _drawn(self) -> list[Mixer]:
        if self.prob == 0 or self.until == 0:
            return []
        shares = [1.0] * len(self.mixers) if self.probabilities is None else self.probabilities
        return [mixer for mixer, share in zip(self.mixers, shares, strict=True) if share > 0]
