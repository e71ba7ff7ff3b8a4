"""SaliencyMix: its map against OpenCV's, pixel by pixel, and where its boxes lie."""

import hashlib

import numpy as np
import pytest
import torch
from torch import Tensor

from alignmix_timm.mixers import SaliencyMix, make_mixer
from alignmix_timm.mixers.cutmix import box_around
from alignmix_timm.mixers.saliencymix import (
    NEIGHBOURHOODS,
    fine_grained_saliency,
    grey,
    most_salient,
    smooth,
    surround_means,
)
from alignmix_timm.params import MixParams, Place

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZES = [(32, 32), (33, 47), (64, 64), (1, 5), (2, 2), (3, 7)]


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    """An image of scattered values, [H, W, C] uint8, the same with every version of numpy."""
    numbers = np.arange(height * width * channels, dtype=np.uint64)
    return ((numbers * 2654435761 >> 13) % 256).astype(np.uint8).reshape(height, width, channels)


def scene(height: int, width: int) -> np.ndarray:
    """A dark texture with a bright, coloured box."""
    image = noise(height, width) // 4
    image[height // 3 : height // 2 + 1, width // 2 :] = (250, 200, 90)
    return image


def batched(*images: np.ndarray) -> Tensor:
    return torch.stack([torch.from_numpy(image) for image in images]).permute(0, 3, 1, 2)


def literal_saliency(image: np.ndarray) -> np.ndarray:
    """The algorithm of OpenCV's StaticSaliencyFineGrained, one pixel and one neighbourhood at a time."""
    height, width, _ = image.shape
    red, green, blue = (image[..., channel].astype(int) for channel in range(3))
    intensity = (9798 * red + 19235 * green + 3735 * blue + 16384) // 32768
    for _ in range(2):
        framed = np.pad(intensity, 1, mode="reflect")
        blurred = np.zeros_like(intensity)
        for row, weight_row in enumerate((1, 2, 1)):
            for column, weight_column in enumerate((1, 2, 1)):
                part = framed[row : row + height, column : column + width]
                blurred += weight_row * weight_column * part
        intensity = (blurred + 8) // 16
    sums = {+1: np.zeros((height, width), int), -1: np.zeros((height, width), int)}
    for n in (12, 24, 48, 28, 56, 112):
        for y in range(height):
            for x in range(width):
                around = intensity[max(y - n + 1, 0) : y + n + 1, max(x - n + 1, 0) : x + n + 1]
                mean = np.float32(around.sum() - intensity[y, x]) / np.float32(around.size - 1)
                for sign, total in sums.items():
                    total[y, x] += int(max(sign * (np.float32(intensity[y, x]) - mean), 0))
    scaled = [total * 255 // max(total.max(), 1) for total in sums.values()]
    return (255 * (scaled[0] + scaled[1]) // max(scaled[0].max(), scaled[1].max(), 1) % 256).astype(np.uint8)


@pytest.mark.parametrize("size", SIZES[:2] + SIZES[3:], ids=str)
def test_the_map_is_that_of_a_literal_loop(size: tuple[int, int]) -> None:
    images = [noise(*size), scene(*size)]
    for found, image in zip(fine_grained_saliency(batched(*images)), images, strict=True):
        assert np.array_equal(found.numpy(), literal_saliency(image))


# The first digits of the SHA-256 of the map, for noise and for the scene, by opencv-contrib-python-headless 5.0.0.93:
# cv2.saliency.StaticSaliencyFineGrained_create().computeSaliency(image[..., ::-1].copy())[1], times 255 and rounded.
RECORDED = {
    (32, 32): ("631ae9db42bc09d7", "fa0063abaa2028f9"),
    (33, 47): ("d47c029758fd5269", "5881df7b6d619712"),
    (64, 64): ("87e89fcb171b6e6b", "ac359c99ba0ad1d2"),
    (224, 224): ("5864cf988d76da50", "3ac53ecefd2cc1b8"),
}


@pytest.mark.parametrize("size", RECORDED, ids=str)
def test_the_map_is_the_recorded_one_of_opencv(size: tuple[int, int]) -> None:
    maps = fine_grained_saliency(batched(noise(*size), scene(*size)))
    assert tuple(hashlib.sha256(one.numpy().tobytes()).hexdigest()[:16] for one in maps) == RECORDED[size]


def test_the_first_steps_are_those_of_opencv() -> None:
    cv2 = pytest.importorskip("cv2")
    for size in (*SIZES, (224, 224)):
        image = noise(*size)
        expected = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        found = grey(batched(image))
        assert np.array_equal(found[0].numpy(), expected)
        assert np.array_equal(smooth(found)[0].numpy(), cv2.GaussianBlur(expected, (3, 3), 0))


def test_the_surround_is_clipped_and_leaves_the_pixel_out() -> None:
    image = torch.arange(12, dtype=torch.int32).reshape(1, 3, 4)
    integral = torch.nn.functional.pad(image, (1, 0, 1, 0)).cumsum(1).cumsum(2).int()
    assert surround_means(image, integral, 1)[0, 0, 0] == (1 + 4 + 5) / 3
    assert surround_means(image, integral, 1)[0, 2, 3] == 11  # there is nothing else below and to the right
    assert torch.allclose(surround_means(image, integral, max(NEIGHBOURHOODS)), (66 - image).float() / 11)


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (32, 32)], ids=str)
@pytest.mark.parametrize("value", [0, 77, 255])
def test_flat_images_are_zero(size: tuple[int, int], value: int) -> None:
    assert not fine_grained_saliency(torch.full((2, 3, *size), value, dtype=torch.uint8)).any()
    for options in ({}, {"mean": MEAN, "std": STD}):
        centre = most_salient(torch.full((2, 3, *size), value / 255), **options)
        assert torch.equal(centre, torch.tensor([0.5 / size[0], 0.5 / size[1]]).expand(2, 2))


def test_grey_images_and_those_of_many_channels_have_a_map() -> None:
    image = noise(24, 24, 1)
    expected = fine_grained_saliency(batched(image))
    assert torch.equal(fine_grained_saliency(batched(image.repeat(5, axis=2))), expected)
    assert torch.equal(fine_grained_saliency(batched(image.repeat(3, axis=2))), expected)  # the weights sum to 1
    assert most_salient(torch.randn(2, 5, 24, 24)).shape == (2, 2)


def test_the_most_salient_pixel_is_that_of_the_image_before_it_was_normalised() -> None:
    pixels = batched(scene(48, 48), np.roll(scene(48, 48), (9, -14), (0, 1)), noise(48, 48))
    images = (pixels / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    maps = fine_grained_saliency(pixels)
    expected = [divmod(int(one.flatten().int().argmax()), 48) for one in maps]
    assert (most_salient(images, MEAN, STD) * 48).long().tolist() == [list(place) for place in expected]
    assert torch.equal(most_salient(images[:2]), most_salient(images[:2], MEAN, STD))
    assert torch.equal(most_salient(images.bfloat16()[:2], MEAN, STD), most_salient(images[:2], MEAN, STD))


def spots(*places: tuple[int, int]) -> Tensor:
    """Images with one bright spot each, normalised."""
    images = torch.zeros(len(places), 3, 40, 40)
    for image, (row, column) in zip(images, places, strict=True):
        image[:, row - 2 : row + 3, column - 2 : column + 3] = 2.0
    return images


PLACES = [(12, 30), (30, 20), (22, 28)]


@pytest.mark.parametrize("per_example", [False, True])
def test_boxes_lie_around_the_most_salient_pixel_of_the_source(per_example: bool) -> None:
    """One source places the box of all, at the same coordinates; or each its own."""
    mixer, images = SaliencyMix(per_example=per_example), spots(*PLACES)
    maps = [literal_saliency(image) for image in (images * 127.5).byte().permute(0, 2, 3, 1).numpy()]
    salient = torch.tensor([divmod(int(one.argmax()), 40) for one in maps])
    assert len(salient.unique(dim=0)) == 3  # a spot elsewhere moves it
    assert (salient - torch.tensor(PLACES)).abs().max() <= 12  # the spot, or the darker ring around it
    perm, lam, sources = torch.tensor([2, 0, 1]), torch.full((3,), 0.9), set()
    for turn in range(3):
        params = MixParams("input", lam, perm, "saliencymix", extra={"turn": torch.eye(3)[turn]})
        expected = salient[perm if per_example else perm[turn].expand(3)]
        assert torch.equal((mixer._centres(images, params) * 40).long(), expected)
        boxes = box_around(mixer._centres(images, params), lam, 40, 40)
        assert ((boxes[:, ::2] <= expected) & (expected < boxes[:, 1::2])).all()
        sources.add(str(expected))
    assert len(sources) == (1 if per_example else 3)


@pytest.mark.parametrize("options", [{}, {"per_example": True}, {"saliency_input": "as_released"}], ids=str)
def test_pixels_come_from_either_image_and_targets_follow_the_area(options: dict[str, object]) -> None:
    mixer = SaliencyMix(**options)
    generator = torch.Generator().manual_seed(0)
    for size in ((32, 32), (33, 17), (2, 3)):
        images = torch.randn(5, 3, *size, generator=generator)
        for step in range(6):
            params = mixer.draw(5, Place(0, step))
            mixed = mixer.mix(images, torch.eye(5), params, None)
            pasted = (mixed.images != images).any(1)
            assert torch.equal(mixed.images, torch.where(pasted[:, None], images[params.perm], images))
            others = params.perm != torch.arange(5)
            shares = pasted.float().mean((1, 2))
            assert torch.allclose(mixed.targets.diagonal()[others], 1 - shares[others], atol=1e-6)
            rows, columns = pasted.any(2), pasted.any(1)
            assert torch.equal(pasted, rows[:, :, None] & columns[:, None])  # a rectangle


def test_as_released_the_image_does_not_place_the_box() -> None:
    mixer = SaliencyMix(saliency_input="as_released")
    params = mixer.draw(3, Place(0, 0))
    assert torch.equal(mixer._centres(spots(*PLACES), params), mixer._centres(spots(*PLACES[::-1]), params))
    own = SaliencyMix(saliency_input="as_released", per_example=True).draw(4, Place(0, 0))
    assert len(own.extra["place"].unique(dim=0)) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"saliency_input": "float"}, "saliency_input must be 'uint8' or 'as_released', got 'float'"),
        ({"mean": [0.5] * 3}, "saliencymix: mean and std must be given together"),
        ({"alpha": 0}, "saliencymix: alpha must be > 0, got 0"),
    ],
)
def test_wrong_options_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_mixer("saliencymix", **options)


def test_a_mean_of_other_channels_is_named() -> None:
    mixer = SaliencyMix(mean=MEAN, std=STD)
    with pytest.raises(
        ValueError, match=r"mean must be one number for each of 1 channels, got \[0.485, 0.456, 0.406\]"
    ):
        mixer.mix(torch.zeros(4, 1, 8, 8), torch.eye(4), mixer.draw(4, Place(0, 0)), None)
