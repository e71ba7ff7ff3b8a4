"""CutMix and input mixup against those of timm."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from timm.data import Mixup
from torch import Tensor
from torchvision.transforms import v2

from alignmix_timm import MixParams
from alignmix_timm.mixers import CutMix, InputMixup, Mixer
from alignmix_timm.mixers.cutmix import box_around, box_within
from alignmix_timm.params import Place

CLASSES = 8
LABELS = torch.arange(8)


class Unhooked:
    """Stands for a network in which nothing is mixed."""

    def arm(self, params: MixParams, image_size: tuple[int, int, int]) -> None:
        raise AssertionError("mixers of images arm nothing")


def applied(mixer: Mixer, images: Tensor, params: MixParams) -> tuple[Tensor, Tensor]:
    one_hot = torch.nn.functional.one_hot(LABELS, CLASSES).float()
    mixed = mixer.mix(images, one_hot, params, Unhooked())
    return mixed.images, mixed.targets


def flipped(lam: float | np.ndarray, mixer: str, extra: dict[str, Any]) -> MixParams:
    """As timm mixes: each with the one at the mirrored place."""
    lam = torch.tensor(np.broadcast_to(np.asarray(lam, dtype=np.float32), 8).copy())
    given = {name: torch.tensor(value, dtype=torch.float32).expand(8, 2) for name, value in extra.items()}
    return MixParams("input", lam, torch.arange(8).flip(0), mixer=mixer, extra=given)


def centre(size: tuple[int, int]) -> list[float]:
    """The next centre that timm draws, as the share of the image at which our box has the same."""
    return [(np.random.randint(0, side) + 0.5) / side for side in size]


def inner(size: tuple[int, int], minmax: Sequence[float]) -> dict[str, list[float]]:
    """The next box of ``cutmix_minmax`` that timm draws, likewise."""
    cut = [np.random.randint(int(side * minmax[0]), int(side * minmax[1])) for side in size]
    low = [np.random.randint(0, side - length + 1) for side, length in zip(size, cut, strict=True)]
    place = [(first + 0.5) / (side - length + 1) for first, side, length in zip(low, size, cut, strict=True)]
    return {"place": place, "sides": [(length + 0.5) / side for length, side in zip(cut, size, strict=True)]}


SIZES = [(32, 32), (24, 40), (33, 17)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("minmax", [None, (0.2, 0.8), (0.0, 1.0)], ids=str)
@pytest.mark.parametrize("per_example", [False, True])
def test_cutmix_is_that_of_timm(size: tuple[int, int], minmax: tuple[float, float] | None, per_example: bool) -> None:
    """For the same lam, partners and boxes: both are read from the random numbers that timm's mixing draws."""
    mode = "elem" if per_example else "batch"
    theirs = Mixup(
        mixup_alpha=0.0, cutmix_alpha=1.0, cutmix_minmax=minmax, mode=mode, label_smoothing=0.0, num_classes=CLASSES
    )
    images = torch.randn(8, 3, *size, generator=torch.Generator().manual_seed(0))
    for seed in range(12):
        np.random.seed(seed)
        if per_example:
            lam = np.random.beta(1.0, 1.0, size=8).astype(np.float32)
            np.random.rand(8)
        else:
            np.random.rand()
            lam = np.random.beta(1.0, 1.0)
        boxes = [inner(size, minmax) if minmax else {"place": centre(size)} for _ in range(8 if per_example else 1)]
        extra = {name: [box[name] for box in boxes] for name in boxes[0]}
        mixed, targets = applied(CutMix(minmax=minmax), images, flipped(lam, "cutmix", extra))
        np.random.seed(seed)
        expected, expected_targets = theirs(images.clone(), LABELS)
        assert torch.equal(mixed, expected), seed
        assert torch.allclose(targets, expected_targets, atol=1e-6), seed


@pytest.mark.parametrize("per_example", [False, True])
def test_input_mixup_is_that_of_timm(per_example: bool) -> None:
    theirs = Mixup(0.4, mode="elem" if per_example else "batch", label_smoothing=0.0, num_classes=CLASSES)
    images = torch.randn(8, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    for seed in range(8):
        np.random.seed(seed)
        if not per_example:
            np.random.rand()
        lam = np.random.beta(0.4, 0.4, size=8 if per_example else None)
        mixed, targets = applied(InputMixup(), images, flipped(lam, "mixup", {}))
        np.random.seed(seed)
        expected, expected_targets = theirs(images.clone(), LABELS)
        assert torch.allclose(mixed, expected, atol=1e-6), seed
        assert torch.allclose(targets, expected_targets, atol=1e-6), seed


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_cutmix_and_input_mixup_are_those_of_torchvision(size: tuple[int, int]) -> None:
    """Which mixes each with the one before, and whose boxes have even sides."""
    images, compared = torch.randn(8, 3, *size, generator=torch.Generator().manual_seed(0)), 0
    one_hot = torch.nn.functional.one_hot(LABELS, CLASSES).float()
    for seed in range(12):
        for theirs, mixer in ((v2.MixUp(alpha=1.0), InputMixup()), (v2.CutMix(alpha=1.0), CutMix())):
            theirs.num_classes = CLASSES
            torch.manual_seed(seed)
            lam = theirs._dist.sample(()).item()
            column, row = (int(torch.randint(side, (1,))) for side in size[::-1])
            sides = [int(np.sqrt(1 - lam) * side) for side in size]
            if isinstance(mixer, CutMix) and any(side % 2 for side in sides):
                continue
            place = torch.tensor([(row + 0.5) / size[0], (column + 0.5) / size[1]]).expand(8, 2)
            params = MixParams(
                "input", torch.full((8,), lam), torch.arange(8).roll(1), mixer.name, extra={"place": place}
            )
            found, targets = applied(mixer, images, params)
            torch.manual_seed(seed)
            expected, expected_targets = theirs(images, LABELS)
            assert torch.allclose(found, expected, atol=1e-6), seed
            assert torch.allclose(targets, expected_targets, atol=1e-6), seed
            assert torch.allclose(targets.sum(1), one_hot.sum(1))
            compared += 1
    assert compared > 12


def test_input_mixup_is_linear_and_symmetric() -> None:
    """lam 0 is the partner; and what lam gives of one, 1 - lam gives with both exchanged."""
    images, perm = torch.randn(8, 3, 4, 6, generator=torch.Generator().manual_seed(0)), torch.arange(8).flip(0)
    lam = torch.linspace(0, 1, 8)

    def mixed(batch: Tensor, share: Tensor, pairs: Tensor = perm) -> tuple[Tensor, Tensor]:
        return applied(InputMixup(), batch, MixParams("input", share, pairs, mixer="mixup"))

    assert torch.equal(mixed(images, torch.zeros(8))[0], images[perm])
    assert torch.equal(mixed(images, torch.ones(8))[0], images)
    for one, other in zip(mixed(images, lam), mixed(images, 1 - lam[perm]), strict=True):
        assert torch.allclose(one, other[perm], atol=1e-6)
    doubled, second = mixed(2 * images, lam)[0], images.roll(3, 2)
    assert torch.allclose(doubled, 2 * mixed(images, lam)[0], atol=1e-6)
    both = mixed(images, lam)[0] + mixed(second, lam)[0]
    assert torch.allclose(mixed(images + second, lam)[0], both, atol=1e-6)


def test_centres_of_cutmix_are_uniform_and_boxes_of_minmax_cover_their_range() -> None:
    drawn = [CutMix().draw(2, Place(0, step)) for step in range(2000)]
    rows = torch.cat([box_around(params.extra["place"][:1], torch.full((1,), 0.99), 10, 10) for params in drawn])
    counts = np.bincount(rows[:, 0].numpy(), minlength=10)  # a side of one pixel begins at its centre
    assert scipy.stats.chisquare(counts).pvalue > 1e-3
    sides = torch.cat([CutMix(minmax=(0.2, 0.5)).draw(2, Place(0, step)).extra["sides"][:1] for step in range(2000)])
    assert scipy.stats.kstest(sides.flatten().numpy(), scipy.stats.uniform(0.2, 0.3).cdf).pvalue > 1e-3
    corner = torch.full((1, 2), np.nextafter(np.float32(1), np.float32(0)))
    assert box_within(corner, torch.full((1, 2), 0.5), 10, 7).tolist() == [[5, 10, 4, 7]]
    assert box_around(corner, torch.zeros(1), 10, 7).tolist() == [[4, 10, 3, 7]]
