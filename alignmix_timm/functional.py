"""AlignMix on one screen: align two sets of features, then interpolate them.

AlignMix, sections 3.1 and 3.2 and Algorithm 1 (https://arxiv.org/abs/2103.15375). Tokens are [B, N, D]: N = h * w
positions of D channels, the transpose of the paper's c x r matrices. ``lam`` in [0, 1] is always the share of the
first argument: ``lam * first + (1 - lam) * second``.
"""

import torch
from torch import Tensor

from .sinkhorn import EPSILON, NUM_ITERS, CostScale, assign


def mix(first: Tensor, second: Tensor, lam: Tensor | float) -> Tensor:
    """Interpolate: ``lam * first + (1 - lam) * second`` (AlignMix eq. 1).

    Args:
        first: [B, ...], floating.
        second: Same shape as ``first``.
        lam: Share of ``first`` in [0, 1]: one number, or one per example, [B].

    Returns:
        Same shape and dtype as ``first``; computed in fp32 or better. Where ``lam`` is 1 and
        ``second`` is finite it equals ``first``.

    Raises:
        ValueError: shapes disagree; ``first`` or ``second`` hold no floats; ``lam`` is neither a scalar nor [B], or
            outside [0, 1], which is looked at on the CPU only.
    """
    for name, items in (("first", first), ("second", second)):
        if not items.is_floating_point():
            raise ValueError(f"{name} must be floating, got {items.dtype}. Convert and normalise images before mixing.")
    if first.shape != second.shape:
        raise ValueError(f"first and second must have one shape, got {tuple(first.shape)} and {tuple(second.shape)}.")
    _check_share(lam)
    dtype = torch.promote_types(first.dtype, torch.float32)
    lam = torch.as_tensor(lam, dtype=dtype, device=first.device)
    if lam.ndim > 1 or (lam.ndim == 1 and lam.shape[0] != first.shape[0]):
        raise ValueError(f"lam must be a scalar or [B] = [{first.shape[0]}], got shape {tuple(lam.shape)}.")
    lam = lam.view(-1, *[1] * (first.ndim - 1))
    return (lam * first + (1 - lam) * second).to(first.dtype)


def _check_share(lam: Tensor | float) -> None:
    """Raise ValueError for a lam outside [0, 1] that can be read without waiting for a device."""
    if torch.compiler.is_compiling() or (isinstance(lam, Tensor) and lam.device.type != "cpu"):
        return
    values = lam.flatten().tolist() if isinstance(lam, Tensor) else [lam]
    wrong = [value for value in values if not 0 <= value <= 1]
    if wrong:
        raise ValueError(f"lam must be in [0, 1], got {wrong[0]:g}.")


def align(y: Tensor, assignment: Tensor) -> Tensor:
    """Move the tokens of ``y`` to the positions they were assigned to (AlignMix eq. 10: A~ = A' R^T).

    Args:
        y: Tokens that are moved, [B, M, D].
        assignment: R with rows that sum to 1, [B, N, M]; no gradient flows through it (Algorithm 1, line 23).

    Returns:
        Aligned tokens, [B, N, D] in the dtype of ``y``, also under autocast: each a convex combination of tokens of
        ``y``, to the precision of that dtype.

    Raises:
        ValueError: shapes disagree.

    Example:
        >>> y = torch.randn(2, 4, 3)
        >>> align(y, torch.eye(4).expand(2, 4, 4)).allclose(y)
        True
    """
    if assignment.ndim != 3 or y.ndim != 3 or assignment.shape[::2] != y.shape[:2]:
        raise ValueError(
            f"assignment must be [B, N, M] for y [B, M, D], got {tuple(assignment.shape)} and {tuple(y.shape)}."
        )
    with torch.autocast(y.device.type, enabled=False):
        return assignment.detach().to(y.dtype) @ y  # (B,N,M) @ (B,M,D) -> (B,N,D)


def alignmix(
    x: Tensor,
    y: Tensor,
    lam: Tensor | float,
    epsilon: float = EPSILON,
    num_iters: int = NUM_ITERS,
    cost_scale: CostScale = "rms",
) -> Tensor:
    """Align ``y`` to ``x`` and interpolate (AlignMix eq. 12; Algorithm 1, lines 21 to 26).

    The result keeps the geometry of ``x`` and takes the appearance of ``y``. Equation 13, the other direction, is
    ``alignmix(y, x, lam)``, with targets ``mix(y_target, x_target, lam)``.

    Args:
        x: Tokens that give the positions, [B, N, D].
        y: Tokens that are moved onto them, [B, M, D].
        lam: Share of ``x`` in [0, 1]: one number, or one per pair, [B].
        epsilon, num_iters, cost_scale: See :func:`alignmix_timm.sinkhorn.assign`.

    Returns:
        Mixed tokens, [B, N, D] in the dtype of ``x``. Gradients reach both ``x`` and ``y``.

    Raises:
        ValueError: as ``assign`` and ``mix``.
    """
    assignment = assign(x, y, epsilon, num_iters, cost_scale).assignment  # eq. 7 to 9
    return mix(x, align(y, assignment), lam)  # eq. 10, 12


def mix_targets(targets: Tensor, perm: Tensor, lam: Tensor | float) -> Tensor:
    """Mix each target with that of its partner (AlignMix eq. 1, in the loss of eq. 6).

    Args:
        targets: One-hot, soft or multi-label targets, [B, C] floating.
        perm: Index of each example's partner, [B] int64.
        lam: Share of the example's own target: one number, or one per example, [B].

    Returns:
        ``lam * targets + (1 - lam) * targets[perm]``, [B, C].
    """
    return mix(targets, targets[perm], lam)
