"""Input mixup: two images, overlaid (Zhang et al., https://arxiv.org/abs/1710.09412)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..functional import mix, mix_targets
from ..params import MixParams
from .contract import HookedNetwork, Mixed
from .pairs import PairMixer


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
class InputMixup(PairMixer):
    """Input mixup. Defaults: those of its paper's code for CIFAR; the AlignMix paper trains with ``alpha=2``.

    Args and errors as :class:`PairMixer`.
    """

    name: ClassVar[str] = "mixup"

    def mix(self, images: Tensor, targets: Tensor, params: MixParams, net: HookedNetwork) -> Mixed:
        """Mix images and targets."""
        return mix_inputs(images, targets, params)
