"""The layout of a point against how its map depends on single places of the image, in real forward passes.

pytest tests/test_positions.py            # a sample
pytest -m slow tests/test_positions.py    # every family of timm, at three image sizes
"""

import copy
import dataclasses
import gc

import pytest
import timm
import torch
from test_families import NAMES, REFUSED, TOO_LARGE
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from alignmix_timm import AlignMixModel, MixingPoint, alignmix, choose_point, draw
from alignmix_timm.points import built_for
from alignmix_timm.points.__main__ import create_without_data
from alignmix_timm.points.layout import Layout

SAMPLE = [
    pytest.param("swin_tiny_patch4_window7_224", (96, 192), "layers.0", marks=pytest.mark.slow),
    ("convnext_atto", (64, 160), None),
    ("vit_small_patch16_dinov3", (64, 128), None),
    ("resnet18", (96, 192), None),
    ("focalnet_tiny_srf", (128, 256), None),
    ("mambaout_femto", (128, 256), None),
]
CLEAR = 0.03
EVERYWHERE = ("halonet_h1", "levit_128s")  # behind attention alone, which looks everywhere in a fresh network


def build(name: str, size: tuple[int, int]) -> nn.Module:
    """The model for this image size, where its family is built for one."""
    torch.manual_seed(0)
    try:
        return timm.create_model(name, num_classes=4, img_size=size)
    except TypeError:  # the family takes any size
        return timm.create_model(name, num_classes=4)


def calibrate(net: nn.Module, images: Tensor) -> None:
    """Make a fresh network look at places: convolutions at their centre, batch norms at the scale of these images."""
    for module in net.eval().modules():
        if isinstance(module, nn.Conv2d) and module.stride == (1, 1):
            height, width = (size // 2 for size in module.kernel_size)
            centre = module.weight[:, :, height, width].clone()
            module.weight.mul_(0.01)[:, :, height, width] = centre
        if isinstance(module, _BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            module.momentum = 1.0
            module.train()
    net(images)
    net.eval()


@torch.no_grad()
def shares(net: nn.Module, point: MixingPoint) -> Tensor:
    """What share of the change at each position is that of the upper half of the image, and of the left, [2, H, W].

    An image is compared with copies in which one half has the other sign. The share of the upper half is that of its
    change in those of both halves.
    """
    channels, height, width = point.input_size
    images = torch.randn(1, channels, height, width, generator=torch.Generator().manual_seed(0)).repeat(5, 1, 1, 1)
    images[1, :, : height // 2] *= -1
    images[2, :, height // 2 :] *= -1
    images[3, :, :, : width // 2] *= -1
    images[4, :, :, width // 2 :] *= -1
    calibrate(net, images)
    found: list[Tensor] = []

    def keep(module: nn.Module, args: object, output: Tensor | tuple[Tensor, ...]) -> None:
        found.append(output[0] if isinstance(output, tuple) else output)

    handle = net.get_submodule(point.feature_module).register_forward_hook(keep)
    net(images)
    handle.remove()
    tokens, _ = point.layout.split(found[-1].float())
    upper, lower, left, right = (tokens[1:] - tokens[0]).norm(dim=2).unflatten(1, point.map_size)
    return torch.stack([upper / (upper + lower), left / (left + right)])


def agreement(net: nn.Module, point: MixingPoint) -> float:
    """By how much the share of the upper half is larger in the upper rows than in the lower, beyond that of the left.

    Or that of the left half in the columns, if it is smaller. In [-1, 1]; a dimension that is not the one it is taken
    for gives 0 or less.
    """
    vertical, horizontal = shares(net, point)
    rows, columns = (size // 2 for size in point.map_size)

    def by_rows(share: Tensor) -> Tensor:
        return share[:rows].mean() - share[-rows:].mean()

    def by_columns(share: Tensor) -> Tensor:
        return share[:, :columns].mean() - share[:, -columns:].mean()

    downwards = by_rows(vertical) - by_rows(horizontal).abs()
    sideways = by_columns(horizontal) - by_columns(vertical).abs()
    return float(min(downwards, sideways))


@pytest.mark.parametrize(("name", "size", "module"), SAMPLE)
def test_a_map_answers_where_the_image_changes(name: str, size: tuple[int, int], module: str | None) -> None:
    net = build(name, size)
    assert agreement(net, choose_point(net, (3, *size), module)) > CLEAR


@pytest.mark.slow
def test_a_map_that_reads_in_two_ways_is_mixed_right() -> None:
    """The last map of this network, [4, 32, 256], has the aspect ratio of the image as NHWC and as NCHW."""
    net = build("maxvit_rmlp_pico_rw_256", (128, 1024))
    point = choose_point(net, (3, 128, 1024))
    assert (point.layout, point.map_size) == (Layout("NHWC"), (4, 32))
    assert agreement(net, point) > CLEAR
    wrong = dataclasses.replace(point, layout=Layout("NCHW"), map_size=(32, 256))
    assert agreement(net, wrong) < CLEAR / 2

    images, perm = torch.randn(2, 3, 128, 1024), torch.tensor([1, 0])
    params = dataclasses.replace(draw(2, 0, 0, modes=("feat",)), perm=perm)
    model = AlignMixModel(copy.deepcopy(net.train()), input_size=point.input_size)
    torch.manual_seed(1)  # of dropout
    mixed = model(images, torch.arange(2), params).logits

    def mix_by_hand(module: nn.Module, args: object, output: Tensor) -> Tensor:
        tokens = output.reshape(2, 4 * 32, 256)
        return alignmix(tokens, tokens[perm], params.lam).reshape(2, 4, 32, 256)

    net.get_submodule(point.feature_module).register_forward_hook(mix_by_hand)
    torch.manual_seed(1)
    assert torch.allclose(mixed, net(images), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("aspect", [(1, 1), (1, 2), (2, 1)])
def test_every_family(name: str, aspect: tuple[int, int]) -> None:
    if name in (*TOO_LARGE, *REFUSED, *EVERYWHERE):
        pytest.skip("is not mixed, takes more than 15 GiB, or looks everywhere")
    channels, height, width = built_for(create_without_data(name))
    size = (aspect[0] * height, aspect[1] * width)
    try:
        net = build(name, size)
    except AssertionError:
        if aspect == (1, 1):
            raise
        pytest.skip("timm builds this family for square images alone")
    try:
        point = choose_point(net, (channels, *size))
    except ValueError as error:
        if aspect == (1, 1) or "does not run on images of size" not in str(error):
            raise
        pytest.skip(f"takes square images only: {error}")
    found = agreement(net, point)
    del net
    gc.collect()
    assert found > CLEAR
