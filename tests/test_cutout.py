"""Cutout: how large its holes are, where they lie, and what they leave alone."""

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from alignmix_timm.mixers import Cutout, make_mixer
from alignmix_timm.mixers.cutout import hole_around
from alignmix_timm.params import Place


def cut(mixer: Cutout, images: Tensor, step: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """The images, which pixels were filled, and the targets."""
    params = mixer.draw(len(images), Place(0, step))
    mixed = mixer.mix(images, torch.eye(len(images)), params, None)
    changed = (mixed.images != images).any(1)
    return mixed.images, changed, mixed.targets


@pytest.mark.parametrize(
    ("size", "side", "pixels"),
    [((32, 32), 0.5, 16), ((32, 32), 0.25, 8), ((32, 32), 0.625, 20), ((224, 224), 0.5, 112), ((33, 50), 0.3, 10)],
    ids=str,
)
def test_holes_are_squares_of_the_side_that_the_border_clips(size: tuple[int, int], side: float, pixels: int) -> None:
    """Between (side / 2)^2, at a corner, and side^2 pixels; all else keeps its bits, and the targets theirs."""
    images = torch.rand(64, 3, *size, generator=torch.Generator().manual_seed(0)) + 1
    mixed, changed, targets = cut(Cutout(side=side), images)
    assert torch.equal(targets, torch.eye(64))
    assert torch.equal(mixed, torch.where(changed[:, None], 0.0, images))
    areas = changed.sum((1, 2))
    assert (areas <= pixels**2).all()
    assert (areas >= (pixels // 2) ** 2).all()
    assert (areas == pixels**2).any()
    assert areas.unique().numel() > 1  # some are clipped
    for hole in changed:
        rows, columns = hole.any(1), hole.any(0)
        assert torch.equal(hole, rows[:, None] & columns)  # a rectangle
        assert rows.sum() <= pixels
        assert columns.sum() <= pixels
        assert rows.nonzero().diff(dim=0).eq(1).all()
        assert columns.nonzero().diff(dim=0).eq(1).all()


def test_the_centre_is_uniform_and_each_image_has_its_own() -> None:
    drawn = [Cutout().draw(16, Place(1, step)).extra["place"] for step in range(200)]
    assert all(len(place.unique(dim=0)) == 16 for place in drawn)
    rows = hole_around(torch.cat(drawn), torch.full((3200,), 0.1), 10, 10)  # one pixel: the centre itself
    for axis in (0, 2):
        assert scipy.stats.chisquare(np.bincount(rows[:, axis].numpy(), minlength=10)).pvalue > 1e-3


def test_a_batch_of_one_is_cut_and_filled_as_told() -> None:
    mixed, changed, _ = cut(Cutout(fill=-2.0), torch.ones(1, 1, 8, 8))
    assert changed.any()
    assert (mixed[:, 0][changed] == -2).all()


def test_tiny_images_lose_what_the_share_says() -> None:
    _, changed, _ = cut(Cutout(side=1.0), torch.ones(4, 3, 1, 1))
    assert changed.all()
    _, changed, _ = cut(Cutout(side=0.2), torch.ones(4, 3, 2, 2))
    assert not changed.any()  # less than half a pixel


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"side": 0}, r"cutout: side must be a share of the image's in \(0, 1\], got 0"),
        ({"side": 16}, "side must be a share of the image's .* got 16"),
        ({"fill": float("nan")}, "fill must be a finite number, got nan"),
        ({"prob": 2}, r"prob must be in \[0, 1\], got 2"),
        ({"alpha": 1}, "cutout has no option 'alpha'; it has side, fill, prob"),
    ],
)
def test_wrong_options_are_named(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_mixer("cutout", **options)
