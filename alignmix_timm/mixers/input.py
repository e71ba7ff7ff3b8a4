"""Input mixup: two images, overlaid (Zhang et al., https://arxiv.org/abs/1710.09412)."""

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from ..functional import mix, mix_targets
from ..params import MixParams, Place, check_draw_options, draw
from .contract import HookedNetwork, Mixed, Mixer


def mix_inputs(images: Tensor, targets: Tensor, params: MixParams) -> Mixed:
    """Mix the targets, and in mode ``input`` the images: ``lam * first + (1 - lam) * second``.

    Args:
        images: [B, C, H, W].
        targets: Dense targets [B, num_classes].
        params: On the device of the images.
    """
    if params.mode == "input":
        images = mix(images, images[params.perm], params.lam)
    return Mixed(images, mix_targets(targets, params.perm, params.lam))


@dataclass(frozen=True)
class InputMixup(Mixer):
    """Input mixup. Defaults: those of its paper's code for CIFAR; the AlignMix paper trains with ``alpha=2``.

    Args:
        alpha: lam ~ Beta(alpha, alpha), > 0.
        prob: Probability that a batch is mixed, in [0, 1].
        per_example: One lam for each example, or one for the batch.

    Raises:
        ValueError: an option outside its range.
    """

    name: ClassVar[str] = "mixup"

    alpha: float = 1.0
    prob: float = 1.0
    per_example: bool = False

    def __post_init__(self) -> None:
        check_draw_options(self.alpha, prob=self.prob)

    def draw(self, batch_size: int, place: Place) -> MixParams:
        """Draw permutation and lam."""
        params = draw(
            batch_size, *place, alpha=self.alpha, modes=("input",), prob=self.prob, per_example=self.per_example
        )
        return replace(params, mixer=self.name)

    def mix(self, images: Tensor, targets: Tensor, params: MixParams, net: HookedNetwork) -> Mixed:
        """Mix images and targets."""
        return mix_inputs(images, targets, params)
