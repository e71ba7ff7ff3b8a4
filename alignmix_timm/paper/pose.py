"""Does an image decoded from aligned features keep the pose of the first image? (AlignMix, section 3.3.)

The paper shows it in pictures; this measures it. The metric was fixed before any result was looked at: the silhouette
of an image is where it is brighter than its own Otsu threshold, and two poses agree as far as their silhouettes overlap
(intersection over union). It needs objects on a dark background. Images are grey or colour, in [0, 1].
"""

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2.functional import rgb_to_grayscale

from ..networks.autoencoder import Autoencoder
from .interpolations import interpolate

ROWS = ("aligned, lam = 0", "unaligned, lam = 0", "first reconstructed, lam = 1", "first as it is")
ALIGNED, UNALIGNED = ROWS[:2]


def otsu_threshold(images: Tensor) -> Tensor:
    """The brightness that splits the pixels of each image into two classes of the largest between-class variance.

    Exact: every value that occurs is tried (Otsu 1979; no histogram).

    Args:
        images: [B, ...], at least two pixels each.

    Returns:
        The brightest value of the darker class, [B] float64; of a constant image, its value.
    """
    values = images.flatten(1).double().sort(1).values
    count = values.shape[1]
    darker = torch.arange(1, count, dtype=torch.float64, device=values.device)
    sums = values.cumsum(1)
    below, total = sums[:, :-1], sums[:, -1:]
    between = (total * darker / count - below).square() / (darker * (count - darker))
    # A split between equal pixels is never better than one at an end of their run.
    return values.gather(1, between.argmax(1, keepdim=True)).squeeze(1)


def silhouette(images: Tensor) -> Tensor:
    """Where each image is brighter than its own Otsu threshold.

    Args:
        images: [B, C, H, W] in [0, 1], C = 1 or 3.

    Returns:
        [B, H, W] bool; nowhere in a constant image.
    """
    grey = (rgb_to_grayscale(images) if images.shape[1] == 3 else images).squeeze(1)
    return grey.double() > otsu_threshold(grey)[:, None, None]


def overlap(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of two silhouettes [B, H, W], [B] float64 in [0, 1]; 0 where both are empty."""
    both, either = ((first & second).flatten(1).sum(1), (first | second).flatten(1).sum(1))
    return both.double() / either.clamp_min(1)


def pose_overlaps(model: Autoencoder, first: Tensor, second: Tensor, batch_size: int = 100) -> dict[str, np.ndarray]:
    """Overlaps of decoded silhouettes with those of the two originals of each pair.

    Args:
        model: In eval mode; its epsilon aligns.
        first, second: Normalised images, [B, C, S, S].

    Returns:
        For each of ``ROWS``, [B, 2]: overlap with the first original and with the second.

    Raises:
        ValueError: as :func:`alignmix_timm.paper.interpolations.interpolate`.
    """
    batches = zip(first.split(batch_size), second.split(batch_size), strict=True)
    overlaps = torch.cat([_overlaps(model, *batch) for batch in batches], 1)
    return dict(zip(ROWS, overlaps.cpu().numpy(), strict=True))


def _overlaps(model: Autoencoder, first: Tensor, second: Tensor) -> Tensor:
    """[rows, B, 2], for one batch."""
    decoded = interpolate(model, first, second, (0.0, 1.0))
    originals = [model.rescale(images) for images in (first, second)]
    shown = [decoded.aligned[0], decoded.unaligned[0], decoded.aligned[1], originals[0]]
    of_originals, of_shown = ([silhouette((images + 1) / 2) for images in group] for group in (originals, shown))
    return torch.stack([torch.stack([overlap(one, other) for other in of_originals], 1) for one in of_shown])


def with_differences(overlaps: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Add the row aligned - unaligned, and to each row the column first - second: [B, 3] of each pair."""
    first, *others = overlaps.items()
    rows = dict([first, others[0], ("aligned - unaligned", overlaps[ALIGNED] - overlaps[UNALIGNED]), *others[1:]])
    return {name: np.column_stack([values, values[:, 0] - values[:, 1]]) for name, values in rows.items()}
