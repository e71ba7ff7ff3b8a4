"""Co-Mixup: each image of a batch put together from several (Kim et al., 2021, https://arxiv.org/abs/2102.03065)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..params import MixParams, Place, check_draw_options, draw, unmixed
from ..seeds import Stream, generator
from .contract import HookedNetwork, Mixed, Mixer
from .coordinate_descent import Problem, assign_cells

POOL = 8  # pixels, at a side of the window in which an image is said to be most salient


def saliency_shares(saliency: Tensor, blocks: int) -> Tensor:
    """Share of each cell in the saliency of its image, [B, blocks**2] from [B, H, W]; flat where there is none."""
    pooled = F.adaptive_avg_pool2d(saliency.unsqueeze(1), blocks).flatten(1)
    total = pooled.sum(1, keepdim=True)
    return torch.where(total > 0, pooled / total, 1 / blocks**2)


def compatibility(saliency: Tensor, omega: float) -> Tensor:
    """A: two images that are most salient at distant places are better shown by one output than by two.

    Args:
        saliency: Of the m images of each of P parts, [P, m, H, W].
        omega: Share of the distances, in [0, 1].

    Returns:
        ``(1 - omega) * I + omega * D``, [P, m, m]: D is the distance along rows plus that along columns, times m over
        the sum of all distances of the part; 0 where that is 0.
    """
    inputs, height, width = saliency.shape[1:]
    window = (min(POOL, height), min(POOL, width))
    pooled = F.avg_pool2d(saliency, window, stride=1)
    place = pooled.flatten(2).argmax(2)
    row, column = place // pooled.shape[3], place % pooled.shape[3]
    down, across = ((one.unsqueeze(2) - one.unsqueeze(1)).abs() for one in (row, column))
    distance = (down + across).to(saliency)
    distance = distance * (inputs / distance.sum((1, 2), keepdim=True).clamp(min=1))
    return (1 - omega) * torch.eye(inputs, device=saliency.device) + omega * distance


def compose(images: Tensor, sources: Tensor) -> Tensor:
    """Put images together from cells of others, each at its own place.

    Args:
        images: [B, C, H, W].
        sources: The two images that each cell of each output shows by half, or twice the same, [B, n, n, 2] int64.

    Returns:
        [B, C, H, W]. Where the sides are no multiples of n, cells differ by a pixel.
    """
    cells = sources.shape[1]
    row, column = _cell_of_pixels(images, cells)
    first, second = (
        images.gather(0, one[:, row][:, :, column].unsqueeze(1).expand_as(images)) for one in sources.unbind(3)
    )
    return torch.empty_like(images).copy_((first + second) / 2)  # in the memory format of the images


@dataclass(frozen=True)
class CoMixup(Mixer):
    """Co-Mixup: images put together from the most salient cells of several images, unlike one another.

    What it does: a batch of B images is cut into parts of 20, and from the images of a part as many are made. Each cell
    of a 4 x 4 grid shows one image, or the mean of two, so that the outputs together show what is salient, keep
    neighbouring cells of one image together, and use no image too often. The target is the mixture of the classes by
    area.

    Source: Kim et al., ICLR 2021, section 4 and algorithm 1; the hard threshold, two images in a cell, and ``resolve``
    are those of the released code. Outputs are found by local search from several starts in place of a graph cut, and
    kept unless the objective rises: see :func:`.coordinate_descent.assign_cells`. Saliency is that of the network in
    eval mode, the released code's ``clean_lam=0``. Its ``clean_lam=1``, for CIFAR and Tiny ImageNet, takes it in
    training mode and adds the gradients of that pass to the step; it is not offered, for then a mixer would change
    gradients and batch-norm statistics, and the images would count twice in a step.

    Defaults: the released code's for CIFAR-100. The AlignMix paper trains all methods with ``alpha=2``, as here.

    Cost: one more forward and backward pass, and the search: some ten thousand small operations whatever the size of
    the images, on their device, without waiting for it.

    It does not combine with mixing inside the network in one batch, nor with models whose logits have no gradient by
    the images. An output belongs to no image of the batch more than to another: ``lam`` stays 1 and ``perm`` the
    identity, and what decides is drawn into ``extra``. A batch, or a last part, of one image stays as it is. Where
    saliency is flat, or at one place in all images, as in a network that has hardly trained, outputs are whole images.

    Args:
        alpha: Of the Dirichlet prior of how much a part uses each of its images, > 0.
        prob: Probability that a batch is mixed, in [0, 1].
        blocks: Cells at a side of the grid, >= 1.
        part: Images of a part, >= 2; the last part of a batch can be smaller.
        beta: Weight of neighbouring cells that show different images, >= 0.
        gamma: Weight of using an image often, >= 0.
        eta: Weight of the prior, >= 0.
        tau: An image is free in as many cells of the other outputs, as a share of the cells of an output, >= 0.
        omega: Share of distances in the compatibility of images, in [0, 1].
        sweeps: Over the outputs of a part, >= 1.
        resolve: Make outputs that show the same images pay for it in the last sweep.

    Raises:
        ValueError: an option outside its range; in ``mix``, images with fewer pixels at a side than the grid has cells.
    """

    name: ClassVar[str] = "comixup"

    alpha: float = 2.0
    prob: float = 1.0
    blocks: int = 4
    part: int = 20
    beta: float = 0.32
    gamma: float = 1.0
    eta: float = 0.05
    tau: float = 0.83
    omega: float = 0.001
    sweeps: int = 4
    resolve: bool = True

    def __post_init__(self) -> None:
        check_draw_options(self.alpha, prob=self.prob)
        for name, least in (("blocks", 1), ("part", 2), ("sweeps", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be a whole number >= {least}, got {value!r}.")
        for name, most in (("beta", math.inf), ("gamma", math.inf), ("eta", math.inf), ("tau", math.inf), ("omega", 1)):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 <= value <= most or value == math.inf:
                raise ValueError(f"{name} must be {'in [0, 1]' if most == 1 else '>= 0 and finite'}, got {value!r}.")

    def draw(self, batch_size: int, place: Place) -> MixParams:
        """Draw an order, of which each ``part`` are mixed with one another, the prior, and where the search starts."""
        params = draw(batch_size, *place, modes=("input",), prob=self.prob)
        if params.mode == "none":
            return params
        rng = generator(place.seed, Stream.REGION, *place[1:])
        rank = rng.permutation(batch_size)
        sizes = [min(self.part, batch_size - first) for first in range(0, batch_size, self.part)]
        prior = np.concatenate([rng.dirichlet([self.alpha] * size) for size in sizes])[rank]
        start = rng.random((batch_size, self.blocks**2), dtype=np.float32)
        drawn = {"rank": rank.astype(np.int64), "prior": prior.astype(np.float32), "start": start}
        extra = {name: torch.from_numpy(value) for name, value in drawn.items()}
        return replace(unmixed(batch_size, "input"), mixer=self.name, extra=extra)

    @torch.compiler.disable  # the extra pass, and thousands of small operations that would be traced one by one
    def mix(self, images: Tensor, targets: Tensor, params: MixParams, net: HookedNetwork) -> Mixed:
        """Ask where the images are salient, and put each part together."""
        if min(images.shape[2:]) < self.blocks:
            height, width = images.shape[2:]
            raise ValueError(f"blocks must be at most the sides of the images, {height} x {width}, got {self.blocks}.")
        saliency, rank = net.saliency(images, targets), params.extra["rank"]
        order = rank.argsort()
        whole = len(images) // self.part * self.part
        down, across = (F.one_hot(cell, self.blocks).sum(0) for cell in _cell_of_pixels(images, self.blocks))
        pixels = torch.outer(down, across).flatten().float()
        sources, shares = [], []
        with torch.autocast(images.device.type, enabled=False):
            for first, last, size in ((0, whole, self.part), (whole, len(images), len(images) - whole)):
                if first == last:
                    continue
                of_parts = order[first:last].view(-1, size)
                shown = self._solve(saliency[of_parts], *(params.extra[name][of_parts] for name in ("prior", "start")))
                sources.append(of_parts.gather(1, _two_of(shown).flatten(1)).view(-1, self.blocks, self.blocks, 2))
                share = (shown * pixels.unsqueeze(1)).sum(2) / pixels.sum()
                shares.append((share @ targets[of_parts].float()).flatten(0, 1))
            mixed = compose(images, torch.cat(sources)[rank])
            return Mixed(mixed, torch.cat(shares)[rank].to(targets.dtype))

    def _solve(self, saliency: Tensor, prior: Tensor, start: Tensor) -> Tensor:
        """Shares of the inputs in each cell of each output of P parts, [P, m, K, m], from [P, m, ...] each."""
        parts, inputs, cells = start.shape
        shares = saliency_shares(saliency.flatten(0, 1), self.blocks).view(parts, inputs, cells)
        cost = -shares - self.eta / cells * (prior + 1e-8).log().unsqueeze(2)
        problem = Problem(cost.mT, compatibility(saliency, self.omega), self.beta, self.gamma, self.tau)
        own = torch.arange(inputs, device=start.device)[:, None]
        return assign_cells(problem, (own + (start * inputs).long()) % inputs, self.sweeps, self.resolve)


def _cell_of_pixels(images: Tensor, cells: int) -> Iterator[Tensor]:
    """Row of cells of each row of pixels, [H], and column of cells of each column, [W]."""
    return (torch.arange(size, device=images.device) * cells // size for size in images.shape[2:])


def _two_of(shown: Tensor) -> Tensor:
    """The inputs with a share, twice the same where it is one: [P, m, K, m] to [P, m, K, 2]."""
    return torch.stack([shown.argmax(3), shown.shape[3] - 1 - shown.flip(3).argmax(3)], 3)
