"""What is mixed, with whom and how much: drawn once per batch, before the forward pass.

AlignMix, Algorithm 1, lines 1, 2 and 9. ``draw`` is a pure function of its arguments: the mode depends on (seed, step),
so every process of a step agrees on it; lam and perm depend on (seed, step, micro) as well. The only thing to save in a
checkpoint is the step.
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Literal, NamedTuple, TypedDict, get_args

import numpy as np
import torch
from torch import Tensor

from .seeds import Stream, generator

Mode = Literal["none", "input", "embed", "feat", "feat_swap", "clean"]
MODES: tuple[Mode, ...] = ("input", "embed", "feat", "feat_swap")  # the paper's four, drawn uniformly
FEATURE_MODES = ("feat", "feat_swap")


class Place(NamedTuple):
    """The place of a batch in a run: what it draws follows from it alone.

    Attributes:
        seed: Seed of the run, >= 0.
        step: Number of the training step, >= 0.
        micro: Index of this micro-batch within the global batch of the step, >= 0.
    """

    seed: int
    step: int
    micro: int = 0


@dataclass(frozen=True)
class MixParams:
    """How one batch is mixed: row i becomes ``lam[i] * item[i] + (1 - lam[i]) * item[perm[i]]``.

    Attributes:
        mode: Where to mix. ``none`` is classified as it is, ``clean`` only reconstructed by an
            autoencoder. ``feat_swap`` was already rewritten (see :func:`draw`): it is applied exactly as ``feat``.
        lam: Share of the example itself, in [0, 1], [B] fp32.
        perm: Partner of each example, [B] int64.
        mixer: Name of the mixer that drew them, and that will mix by them.
        aligned: Whether features, where they are mixed, are aligned first; if not, they are mixed in place.
        layer: Where features are mixed, as a layer of :class:`alignmix_timm.mixers.ManifoldMixup`; None is the mixing
            point.
        extra: What else this mixer drew, [B, ...] each.
        seed: Of the positions that ``Alignment(assignment="shuffled")`` assigns.
        unlabelled: Why the collator gave the batch no labels, for the error of a model that trains on it.

    Raises:
        ValueError: an unknown mode.
    """

    mode: Mode
    lam: Tensor
    perm: Tensor
    mixer: str = "alignmix"
    aligned: bool = True
    layer: str | int | None = None
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    seed: int = 0
    unlabelled: str = ""

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise ValueError(f"mode must be one of {get_args(Mode)}, got {self.mode!r}.")

    def __len__(self) -> int:
        return self.perm.shape[0]

    @property
    def mixes_features(self) -> bool:
        """Whether a feature map is mixed."""
        return self.mode in FEATURE_MODES

    @property
    def label(self) -> str:
        """What is done, in a word, for metrics and counts: a mode of AlignMix, or the name of another mixer."""
        if self.mode in ("none", "clean") or self.mixer == "alignmix":
            return self.mode
        return self.mixer if self.mode == "input" and self.layer is None else f"{self.mixer}_{self.layer or self.mode}"

    def to(self, device: torch.device | str | int, non_blocking: bool = False) -> "MixParams":
        """Move to a device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "MixParams":
        """Copy to page-locked memory; ``DataLoader(pin_memory=True)`` calls it."""
        return self._each(Tensor.pin_memory)

    def beside(self, images: Tensor) -> "MixParams":
        """Move to the device of a batch, without waiting for it."""
        if images.device.type == "cuda" and self.lam.device.type == "cpu":
            return self.pin_memory().to(images.device, non_blocking=True)
        return self.to(images.device)

    def _each(self, change: Callable[[Tensor], Tensor]) -> "MixParams":
        extra = {name: change(value) for name, value in self.extra.items()}
        return replace(self, lam=change(self.lam), perm=change(self.perm), extra=extra)


def unmixed(batch_size: int, mode: Mode = "none") -> MixParams:
    """Parameters that leave a batch as it is."""
    return MixParams(mode, torch.ones(batch_size, device="cpu"), torch.arange(batch_size, device="cpu"))


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
        alpha: lam ~ Beta(alpha, alpha), > 0 and finite. The paper's value is 2.
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
        return unmixed(batch_size, "clean" if mode == "clean" else "none")
    rng = generator(seed, Stream.PAIR, step, micro)
    lam = rng.beta(alpha, alpha, batch_size if per_example else 1).astype(np.float32)
    lam = np.broadcast_to(lam, batch_size)
    perm = rng.permutation(batch_size)
    if mode == "feat_swap":
        perm = np.argsort(perm)
        lam = lam[perm]
    pairs = torch.from_numpy(lam.copy()), torch.from_numpy(perm.astype(np.int64))
    return MixParams(mode, *pairs, seed=int(rng.integers(2**63)))


def check_draw_options(
    alpha: float = 2.0,
    modes: Sequence[str] = MODES,
    weights: Sequence[float] | None = None,
    prob: float = 1.0,
    per_example: bool = True,
) -> None:
    """Raise ValueError for options that ``draw`` cannot take."""
    if not isinstance(alpha, Real) or not 0 < alpha < math.inf:
        rule = "finite" if alpha == math.inf else "> 0"
        raise ValueError(f"alpha must be {rule}, got {alpha!r}. The paper's value is 2.")
    if not isinstance(prob, Real) or not 0 <= prob <= 1:
        raise ValueError(f"prob must be in [0, 1], got {prob!r}.")
    if not isinstance(modes, list | tuple):
        hint = f" Write modes=[{modes!r}]." if isinstance(modes, str) else ""
        raise ValueError(f"modes must be a list of modes, got {modes!r}.{hint}")
    unknown = [mode for mode in modes if mode not in get_args(Mode)]
    if unknown or not modes:
        raise ValueError(f"modes must be chosen from {get_args(Mode)}, got {tuple(modes)}.")
    if weights is not None and (
        np.shape(weights) != (len(modes),) or min(weights) < 0 or not 0 < sum(weights) < math.inf
    ):
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
