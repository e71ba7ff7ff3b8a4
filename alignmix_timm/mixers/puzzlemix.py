"""PuzzleMix: the salient blocks of two images in one, moved so that both show (Kim et al., 2020).

https://arxiv.org/abs/2009.06962
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from timm.data.constants import IMAGENET_DEFAULT_STD
from torch import Tensor

from ..functional import mix_targets
from ..params import MixParams, Place
from ..seeds import Stream, generator
from .block_energy import block_shares, energy_terms, seams
from .block_transport import assign_blocks, move_blocks, transport_cost
from .contract import HookedNetwork, Mixed
from .graph_cut import best_labels
from .pairs import PairMixer

MOST_BLOCKS = 64  # on a side: more would overflow


def enlarged(mask: Tensor, height: int, width: int) -> Tensor:
    """The mask [B, n, n] at a multiple of its size, [B, height, width]."""
    return mask.repeat_interleave(height // mask.shape[1], 1).repeat_interleave(width // mask.shape[2], 2)


def solve(unary: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """The mask of least energy, share of the image in each block, [B, n, n] fp32: exact, on the CPU.

    Args:
        unary, down, right: Of :func:`energy_terms`; rounded towards 0.

    Raises:
        FloatingPointError: they are not finite.
    """
    terms = [term.cpu().numpy() for term in (unary, down, right)]
    if not all(np.isfinite(term).all() for term in terms):
        raise FloatingPointError(
            "the saliency of PuzzleMix is not finite: look for non-finite images or weights, lower the learning rate, "
            "or train in bf16."
        )
    labels = best_labels(*(term.astype(np.int64) for term in terms))
    return torch.from_numpy(labels).to(unary.device) / 2


@dataclass(frozen=True, kw_only=True)
class PuzzleMix(PairMixer):
    """PuzzleMix. Defaults: those of its paper's code for CIFAR-100; the AlignMix paper trains with ``alpha=2``.

    Images are cut into n x n blocks, and each block of the mixed image shows the image, its partner, or both at half:
    what hides least saliency, at few and unobtrusive borders, and about as much of the image as lam says. Then the
    salient blocks of both are moved to where their image shows. Targets follow the shares of the mask.

    Source: Kim, Choo, Song, ICML 2020: section 4.1 for the mask, section 4.2 for the transport. The mask is the exact
    optimum, by one minimum cut where the paper's code runs alpha-beta swaps. Blocks that the transport leaves without a
    place fill the places that it leaves empty.

    Cost: one more forward and backward pass of the network, and a cut on the CPU, for which the device waits; the
    transport compares all pairs of blocks, so small ``transport_size`` takes memory with its fourth power. The network
    is asked in eval mode, with gradients, statistics and random states as they were: the paper's ``clean_lam`` is 0.
    Its other value adds the gradients of that pass to those of the step, which is for a training loop, not for a mixer.

    Does not combine with networks whose logits are not differentiable by the images, nor with fully sharded ones.

    Args:
        alpha, prob, per_example: See :class:`PairMixer`.
        blocks: Blocks on a side, of which one number is drawn for each batch, uniformly. Where it does not divide the
            sides of the images, the largest of them that does is taken.
        beta: Weight of the smoothness of the mask, >= 0.
        gamma: Weight of pixels in it, relative to that, in [0, 1].
        eta: Weight of the prior, >= 0.
        neighbours: Pixels are compared as means of squares of this side, at most.
        transport: Whether blocks are moved.
        transport_eps: Weight of the distance over which they are, >= 0.
        transport_size: Pixels on a side of what is moved, where it divides the blocks; None is a whole block.
        std: By which the images were divided, for each channel or once for all, so that pixels are compared on the
            scale of [0, 1]. Default: timm's of ImageNet, its mean where there are not three channels. What was
            subtracted has no effect.

    Raises:
        ValueError: an option outside its range.
    """

    name: ClassVar[str] = "puzzlemix"

    blocks: Sequence[int] = (2, 4, 8, 16)
    beta: float = 1.2
    gamma: float = 0.5
    eta: float = 0.2
    neighbours: int = 4
    transport: bool = True
    transport_eps: float = 0.8
    transport_size: int | None = None
    std: Sequence[float] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.blocks, list | tuple) or not self.blocks or not all(map(_is_count, self.blocks)):
            raise ValueError(f"blocks must be a list of whole numbers in [2, {MOST_BLOCKS}], got {self.blocks!r}.")
        for name in ("beta", "eta", "transport_eps"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be >= 0 and finite, got {getattr(self, name)}.")
        if not 0 <= self.gamma <= 1:
            raise ValueError(f"gamma must be in [0, 1], got {self.gamma}.")
        for name in ("neighbours", "transport_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be >= 1, got {value}.")
        if self.std is not None and not _are_positive(self.std):
            raise ValueError(f"std must be a list of numbers > 0, got {self.std!r}.")

    def draw(self, batch_size: int, place: Place) -> MixParams:
        """Draw permutation and lam, and the number of blocks: as the mode, the same in all processes."""
        params = self._draw_pairs(batch_size, place)
        if params.mode == "none":
            return params
        number = generator(place.seed, Stream.REGION, place.step).choice(self.blocks)
        return replace(params, extra={"blocks": torch.full((batch_size,), int(number))})

    @torch.compiler.disable  # the extra pass and the cut on the CPU break a graph of the wrapper in a hundred places
    def mix(self, images: Tensor, targets: Tensor, params: MixParams, net: HookedNetwork) -> Mixed:
        """Find the masks, move the blocks, and mix images and targets by the masks.

        Raises:
            ValueError: no number of blocks divides the sides of the images; ``std`` has not their channels.
            RuntimeError: the logits are not differentiable by the images.
            FloatingPointError: the saliency is not finite.
        """
        height, width = images.shape[2:]
        dividing = self._dividing(height, width)
        pixels = images.detach().float() * self._std(images)
        saliency = net.saliency(images, targets)
        drawn = int(params.extra["blocks"][0])  # waits for the device, as the cut will
        n = drawn if drawn in dividing else max(dividing)
        perm, shares = params.perm, block_shares(saliency, n, n)
        down = seams(pixels, pixels[perm], n, self.neighbours)
        right = seams(pixels.mT, pixels[perm].mT, n, self.neighbours).mT
        terms = energy_terms(shares, shares[perm], down, right, params.lam, self.beta, self.gamma, self.eta)
        mask = solve(*terms)
        partners = images[perm]
        if self.transport:
            images, partners = self._moved(images, saliency, mask), self._moved(partners, saliency[perm], 1 - mask)
        shown = enlarged(mask, height, width)[:, None].to(images.dtype)
        return Mixed(shown * images + (1 - shown) * partners, mix_targets(targets, perm, mask.mean((1, 2))))

    def _dividing(self, height: int, width: int) -> list[int]:
        """The numbers of blocks that divide both sides."""
        dividing = [n for n in self.blocks if height % n == width % n == 0]
        if not dividing:
            raise ValueError(
                f"blocks must have a number that divides the sides of the images, got {list(self.blocks)} for "
                f"{height} x {width} pixels. Resize the images, or choose other blocks."
            )
        return dividing

    def _std(self, images: Tensor) -> Tensor:
        """For each channel, [C, 1, 1]."""
        channels = images.shape[1]
        std = self.std or (IMAGENET_DEFAULT_STD if channels == 3 else [float(np.mean(IMAGENET_DEFAULT_STD))])
        if len(std) not in (1, channels):
            raise ValueError(f"std must have one value, or one for each of {channels} channels, got {list(std)}.")
        return torch.tensor(std, device=images.device).view(-1, 1, 1)

    def _moved(self, images: Tensor, saliency: Tensor, mask: Tensor) -> Tensor:
        """The images with their blocks where the mask, their own share, shows them."""
        height, width = images.shape[2:]
        sides, size = [height // mask.shape[1], width // mask.shape[2]], self.transport_size
        if size is not None and all(side % size == 0 for side in sides):
            sides = [size, size]
        rows, columns = height // sides[0], width // sides[1]
        cost = transport_cost(
            block_shares(saliency, rows, columns), enlarged(mask, rows, columns) > 0, self.transport_eps
        )
        return move_blocks(images, assign_blocks(cost, max(rows, columns)), rows, columns)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and 2 <= value <= MOST_BLOCKS


def _are_positive(values: object) -> bool:
    if not isinstance(values, list | tuple) or not values:
        return False
    return all(isinstance(value, int | float) and 0 < value < math.inf for value in values)
