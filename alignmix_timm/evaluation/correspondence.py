"""Does alignment put object on object? A measure for pairs of images in which the object is marked."""

import torch
from torch import Tensor


def correspondence_score(assignment: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Share of the object's positions that are matched to the other image's object, corrected for chance.

    ``(matched - chance) / (best - chance)`` of each pair: 1 is the best that the marginals allow (the smaller of the
    two objects matched to the larger and to nothing else), 0 is chance (every position spread evenly), and less than 0
    is worse than chance. The identity as the assignment scores unaligned mixing, which matches equal positions.

    Args:
        assignment: [B, N, M]; rows sum to 1, columns to N/M, as those of :class:`alignmix_timm.Transport`. As far as
            Sinkhorn has not converged, a score may pass 1 by its marginal error.
        first: Which positions of the first image belong to the object, [B, N] bool.
        second: The same of the second image, [B, M] bool.

    Returns:
        Scores, [B] float64.

    Raises:
        ValueError: shapes that do not belong together, or an object that covers no position or all of them, whose
            share follows from the marginals alone.
    """
    if assignment.ndim != 3 or first.shape != assignment.shape[:2] or second.shape != assignment.shape[::2]:
        raise ValueError(
            "assignment, first and second must be [B, N, M], [B, N] and [B, M], got "
            f"{tuple(assignment.shape)}, {tuple(first.shape)} and {tuple(second.shape)}."
        )
    for name, mask in (("first", first), ("second", second)):
        if not bool(measurable(mask).all()):
            raise ValueError(
                f"{name} must mark some positions of each image, and not all, got {mask.sum(1).tolist()} of "
                f"{mask.shape[1]}: leave out images that are not measurable()."
            )
    rows, columns = first.double(), second.double()
    matched = torch.einsum("bn,bnm,bm->b", rows, assignment.double(), columns)
    size, other = rows.sum(1), columns.mean(1)  # positions of the first object; share of the second
    return (matched - size * other) / (torch.minimum(size, other * rows.shape[1]) - size * other)


def measurable(masks: Tensor) -> Tensor:
    """Which of the masks [B, N] mark at least one position, and not all: [B] bool."""
    return masks.any(1) & ~masks.all(1)
