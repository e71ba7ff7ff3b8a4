"""What is mixed, with whom and how much: drawn once per batch, before the forward pass.

AlignMix, Algorithm 1, lines 1, 2 and 9. ``draw`` is a pure function of its arguments: the mode depends on (seed, step),
so every process of a step agrees on it; lam and perm depend on (seed, step, micro) as well. The only thing to save in a
checkpoint is the step.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypedDict, get_args

import numpy as np
import torch
from torch import Tensor

from .seeds import Stream, generator

Mode = Literal["none", "input", "embed", "feat", "feat_swap", "clean"]
MODES: tuple[Mode, ...] = ("input", "embed", "feat", "feat_swap")  # the paper's four, drawn uniformly


@dataclass(frozen=True)
class MixParams:
    """How one batch is mixed: row i becomes ``lam[i] * item[i] + (1 - lam[i]) * item[perm[i]]``.

    Attributes:
        mode: Where to mix. ``none`` is classified as it is, ``clean`` only reconstructed by an
            autoencoder. ``feat_swap`` was already rewritten (see :func:`draw`): it is applied exactly as ``feat``.
        lam: Share of the example itself, in [0, 1], [B] fp32.
        perm: Partner of each example, [B] int64.
        unlabelled: Why the collator gave the batch no labels, for the error of a model that trains on it.

    Raises:
        ValueError: an unknown mode.
    """

    mode: Mode
    lam: Tensor
    perm: Tensor
    unlabelled: str = ""

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise ValueError(f"mode must be one of {get_args(Mode)}, got {self.mode!r}.")

    def __len__(self) -> int:
        return self.perm.shape[0]

    def to(self, device: torch.device | str | int, non_blocking: bool = False) -> "MixParams":
        """Move to a device."""
        lam, perm = (tensor.to(device, non_blocking=non_blocking) for tensor in (self.lam, self.perm))
        return replace(self, lam=lam, perm=perm)

    def pin_memory(self) -> "MixParams":
        """Copy to page-locked memory; ``DataLoader(pin_memory=True)`` calls it."""
        return replace(self, lam=self.lam.pin_memory(), perm=self.perm.pin_memory())


class DrawOptions(TypedDict, total=False):
    """The keyword options of :func:`draw`, where a class takes them to pass them on."""

    alpha: float
    modes: Sequence[Mode]
    weights: Sequence[float] | None
    prob: float
    per_example: bool


def draw(
    batch_size: int,
    seed: int,
    step: int,
    micro: int = 0,
    *,
    alpha: float = 2.0,
    modes: Sequence[Mode] = MODES,
    weights: Sequence[float] | None = None,
    prob: float = 1.0,
    per_example: bool = True,
) -> MixParams:
    """Draw mode, permutation and interpolation factors of one batch (Algorithm 1, lines 1, 2, 9).

    Args:
        batch_size: Number of examples, >= 1. A batch of one has no partner: its mode is ``none``.
        seed: Seed of the run, >= 0.
        step: Number of the training step, >= 0.
        micro: Index of this micro-batch within the global batch of the step, >= 0.
        alpha: lam ~ Beta(alpha, alpha), > 0. The paper's value is 2.
        modes: Modes to choose from; for an autoencoder ``(*MODES, "clean")``, the paper's five.
        weights: Relative frequency of each of ``modes``; None is uniform.
        prob: Probability that the batch is mixed at all, in [0, 1].
        per_example: One lam per example (Algorithm 1), or one per batch (the authors' released code).

    Returns:
        The parameters on the CPU. The permutation is uniform over all, fixed points included. In mode ``feat_swap``
        (eq. 13) ``perm`` and ``lam`` are rewritten to ``argsort(perm)`` and ``lam[argsort(perm)]``: the same mixed
        examples in another order, so that the first item of row i is always example i.

    Raises:
        ValueError: an argument outside its range, an unknown mode.
    """
    check_draw_options(alpha, modes, weights, prob)
    for name, value, least in (
        ("batch_size", batch_size, 1),
        ("seed", seed, 0),
        ("step", step, 0),
        ("micro", micro, 0),
    ):
        if value < least:
            raise ValueError(f"{name} must be >= {least}, got {value}.")
    mode = _draw_mode(generator(seed, Stream.MODE, step), modes, weights, prob)
    if mode in ("none", "clean") or batch_size == 1:
        alone: Mode = "clean" if mode == "clean" else "none"
        return MixParams(alone, torch.ones(batch_size), torch.arange(batch_size))
    rng = generator(seed, Stream.PAIR, step, micro)
    lam = rng.beta(alpha, alpha, batch_size if per_example else 1).astype(np.float32)
    lam = np.broadcast_to(lam, batch_size)
    perm = rng.permutation(batch_size)
    if mode == "feat_swap":
        perm = np.argsort(perm)
        lam = lam[perm]
    return MixParams(mode, torch.from_numpy(lam.copy()), torch.from_numpy(perm.astype(np.int64)))


def check_draw_options(
    alpha: float = 2.0,
    modes: Sequence[str] = MODES,
    weights: Sequence[float] | None = None,
    prob: float = 1.0,
    per_example: bool = True,
) -> None:
    """Raise ValueError for options that ``draw`` cannot take."""
    if not alpha > 0:
        raise ValueError(f"alpha must be > 0, got {alpha}. The paper's value is 2.")
    if not 0 <= prob <= 1:
        raise ValueError(f"prob must be in [0, 1], got {prob}.")
    unknown = [mode for mode in modes if mode not in get_args(Mode)]
    if unknown or not modes:
        raise ValueError(f"modes must be chosen from {get_args(Mode)}, got {tuple(modes)}.")
    if weights is not None and (len(weights) != len(modes) or min(weights) < 0 or not sum(weights) > 0):
        raise ValueError(f"weights must be one number >= 0 for each of {tuple(modes)}, not all 0, got {weights}.")


def check_no_clean(modes: Sequence[str]) -> None:
    """Raise ValueError for modes that only an autoencoder has."""
    if "clean" in modes:
        raise ValueError("modes must not hold 'clean': reconstruction needs a decoder, see alignmix_timm.Autoencoder.")


def _draw_mode(rng: np.random.Generator, modes: Sequence[Mode], weights: Sequence[float] | None, prob: float) -> Mode:
    mixed, choice = rng.random(2)
    if mixed >= prob:
        return "none"
    shares = np.cumsum(np.ones(len(modes)) if weights is None else np.asarray(weights, dtype=float))
    return modes[int(np.searchsorted(shares / shares[-1], choice, side="right"))]


def process_index() -> int:
    """Rank of this process among those that train together."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank()
    return int(os.environ.get("RANK", 0))  # set by accelerate launch and torchrun
