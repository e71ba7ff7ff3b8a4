"""What alignment does at each candidate place of a trained model: on photos, before any training."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..alignment import Alignment
from ..evaluation.bootstrap import Interval, bootstrap_dyads
from ..evaluation.correspondence import correspondence_score, measurable
from .effect import logit_difference
from .photos import PhotoData, boxes_in_crop, cropped, normalized
from .positions import Positions, tokens_at

_EFFECT_IMAGES = 16
_BATCH = 50  # pairs that are aligned at a time


@dataclass(frozen=True)
class Measured:
    """Photos as they are measured.

    Attributes:
        images: Normalised, [I, C, H, W].
        masks: Which positions of each photo belong to an object, [I, N] bool for each place; empty without boxes.
        left_out: Photos whose objects cover none or all of the positions of some place.
    """

    images: Tensor
    masks: list[Tensor]
    left_out: int


@dataclass(frozen=True)
class Advice:
    """One place at one epsilon.

    Attributes:
        place: The positions there.
        epsilon: Of the alignment.
        correspondences: Effective correspondences of a position, the mean over pairs.
        effect: Relative difference of the logits between aligned and unaligned mixing, Sinkhorn converged.
        aligned, unaligned: :func:`correspondence_score` of the assignment, and of the identity, the mean over pairs
            with its interval over photos; None without boxes.
        gain: Aligned minus unaligned, pair by pair, likewise.
    """

    place: Positions
    epsilon: float
    correspondences: float
    effect: float
    aligned: Interval | None
    unaligned: Interval | None
    gain: Interval | None


def measure_photos(net: nn.Module, data: PhotoData, places: Sequence[Positions], count: int, seed: int) -> Measured:
    """At most ``count`` photos, drawn at random, as the model sees them.

    Raises:
        ValueError: fewer than two photos can be measured.
    """
    channels, height, width = places[0].point.input_size
    rows = np.random.default_rng(seed).permutation(len(data))[:count]
    pixels, masks = [], []
    for row in rows:
        photo = data[int(row)]
        pixels.append(cropped(photo.image, channels, height, width))
        boxes = boxes_in_crop(photo, height, width)
        masks.append([place.inside(boxes) for place in places])
    stacked = [] if data.boxes is None else [torch.stack(column) for column in zip(*masks, strict=True)]
    kept = torch.ones(len(rows), dtype=torch.bool)
    for one in stacked:
        kept &= measurable(one)
    if kept.sum() < 2:
        objects = "" if data.boxes is None else ", and boxes that hold at least half of some position, not of all"
        raise ValueError(f"images must be at least two photos{objects}, got {int(kept.sum())} of {len(rows)}.")
    return Measured(normalized(net, torch.stack(pixels))[kept], [one[kept] for one in stacked], int((~kept).sum()))


def draw_pairs(photos: int, count: int, seed: int) -> Tensor:
    """Pairs of different photos, [count, 2]: all photos are in about as many."""
    rng = np.random.default_rng(seed)
    rounds = -(-count // (photos // 2))
    pairs = [rng.permutation(photos)[: photos // 2 * 2].reshape(-1, 2) for _ in range(rounds)]
    return torch.from_numpy(np.concatenate(pairs)[:count])


def advise(
    net: nn.Module,
    measured: Measured,
    places: Sequence[Positions],
    alignments: Sequence[Alignment],
    pairs: Tensor,
) -> Iterator[Advice]:
    """Measure each place by each alignment.

    Args:
        net: In eval mode.
        measured: The photos.
        places: Of the candidate points.
        alignments: How maps are aligned; those of ``places`` but for epsilon.
        pairs: Rows of the photos, [P, 2].
    """
    tokens = tokens_at(net, places, measured.images)
    for number, (place, found) in enumerate(zip(places, tokens, strict=True)):
        mask = measured.masks[number] if measured.masks else None
        for alignment in alignments:
            effect = logit_difference(net, place.point, measured.images[:_EFFECT_IMAGES], alignment)
            yield _at(place, alignment, found, mask, pairs, effect)


def _at(
    place: Positions, alignment: Alignment, tokens: Tensor, mask: Tensor | None, pairs: Tensor, effect: float
) -> Advice:
    correspondences, scores = [], []
    identity = torch.eye(len(place))
    for first, second in (batch.T for batch in pairs.split(_BATCH)):
        transport = alignment.transport(tokens[first], tokens[second])
        correspondences.append(transport.effective_correspondences)
        if mask is not None:
            plans = transport.assignment, identity.expand(len(first), -1, -1)
            scores.append(torch.stack([correspondence_score(plan, mask[first], mask[second]) for plan in plans], 1))
    mean = float(torch.cat(correspondences).mean())
    if not scores:
        return Advice(place, alignment.epsilon, mean, effect, None, None, None)
    both = torch.cat(scores)
    three = torch.cat([both, both[:, :1] - both[:, 1:]], 1)
    return Advice(place, alignment.epsilon, mean, effect, *bootstrap_dyads(three.numpy(), pairs.numpy()))
