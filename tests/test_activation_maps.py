"""Class activation maps: their mean is the logit, and networks without them say so."""

from typing import Any

import pytest
import timm
import torch
from torch import nn

import alignmix_timm  # noqa: F401  # registers the paper's networks
from alignmix_timm.evaluation.activation_maps import activation_maps

SMALL = {"num_classes": 5}
SWIN = {"img_size": 32, "patch_size": 2, "window_size": 4, "embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2)}
WITH_MAPS: dict[str, tuple[dict[str, Any], int]] = {  # options, image size
    "test_resnet": ({}, 64),
    "test_convnext": ({}, 64),  # layer norm between pooling and classifier
    "test_efficientnet": ({}, 64),
    "test_byobnet": ({}, 64),
    "swin_tiny_patch4_window7_224": (SWIN, 32),  # channels last
    "vit_relpos_small_patch16_224": ({"img_size": 64, "embed_dim": 48, "depth": 1, "num_heads": 3}, 64),  # tokens
    "test_vit": ({"global_pool": "avg"}, 160),  # a class token that is not pooled
    "preact_resnet18": ({"width": 4}, 32),
    "vgg16_gap": ({"img_size": 32}, 32),
}
WITHOUT = {
    "test_vit": ({}, 160, "not the means"),  # class token
    "mobilenetv3_small_050": ({}, 64, "not the means"),  # a hidden layer in the head
    "test_resnet": ({"global_pool": "max"}, 64, "not the means"),
    "test_efficientnet": ({"global_pool": "catavgmax"}, 64, "not the means"),
    "test_byobnet": ({"num_classes": 0}, 64, "classifier"),
    "test_convnext": ({}, 32, "single position"),
}


def network(name: str, **options: Any) -> Any:
    """A network whose norms have weights and statistics of their own, as those of trained ones."""
    torch.manual_seed(0)
    net = timm.create_model(name, **SMALL | options).eval()
    for module in net.modules():
        for key, value in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
            if isinstance(module, nn.LayerNorm | nn.BatchNorm2d | nn.Linear) and value.is_floating_point():
                value.data = torch.rand_like(value) + (0.5 if key in ("weight", "running_var") else 0)
                value.data -= value.mean() if isinstance(module, nn.Linear) else 0
    return net


def images(size: int) -> torch.Tensor:
    return torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(1))


SLOW = ("vgg16_gap",)  # of a fixed width


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in WITH_MAPS]
)
def test_the_mean_of_a_map_is_the_logit_of_the_network(name: str) -> None:
    options, size = WITH_MAPS[name]
    net = network(name, **options)
    logits, maps = activation_maps(net, images(size))
    assert maps.shape[:2] == (3, 5)
    assert maps.std((2, 3)).min() > 1e-4 * maps.abs().max(), "the maps are constant"
    with torch.no_grad():
        expected = net(images(size))
    assert torch.allclose(logits, expected, atol=1e-5)
    assert torch.allclose(maps.mean((2, 3)), expected, atol=2e-5 * float(maps.abs().max()))


def test_of_pooling_and_a_linear_layer_they_are_the_weights_times_the_features() -> None:
    net, x = network("test_resnet"), images(64)
    with torch.no_grad():
        expected = torch.einsum("kc,bchw->bkhw", net.fc.weight, net.forward_features(x)) + net.fc.bias[:, None, None]
    assert torch.allclose(activation_maps(net, x)[1], expected, atol=1e-5)


def test_channels_last_is_the_same_map_and_not_transposed() -> None:
    """What a network makes of an image of two halves lies left and right in the map."""
    net = network("swin_tiny_patch4_window7_224", **SWIN)
    x = images(32)
    _, before = activation_maps(net, x)
    x[:, :, :, 24:] = 0  # within the last columns of windows
    _, after = activation_maps(net, x)
    change = (after - before).abs().mean((0, 1))
    assert change[:, -1].mean() > 2 * change[:, 0].mean()
    assert change[0].mean() < 2 * change[-1].mean()


@pytest.mark.parametrize("name", WITHOUT)
def test_a_network_without_them_is_named_and_says_why(name: str) -> None:
    options, size, reason = WITHOUT[name]
    net = network(name, **options)
    with pytest.raises(ValueError, match=rf"{type(net).__name__} has no class activation maps: .*{reason}"):
        activation_maps(net, images(size))


def test_a_network_whose_forward_pass_is_another_is_refused() -> None:
    net = network("test_resnet")
    head = net.forward_head
    net.forward = lambda x: 2 * head(net.forward_features(x))
    with pytest.raises(ValueError, match="are not those of forward_head"):
        activation_maps(net, images(64))


def test_a_head_that_leans_on_where_features_are_is_refused() -> None:
    net = network("test_resnet")
    weights = torch.linspace(0, 1, 4).view(1, 1, 2, 2)
    net.global_pool = nn.Sequential(_Weighted(weights), nn.Flatten())
    with pytest.raises(ValueError, match="has no class activation maps"):
        activation_maps(net, images(64))


class _Weighted(nn.Module):
    def __init__(self, weights: torch.Tensor) -> None:
        super().__init__()
        self.weights = weights

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x * self.weights).sum((2, 3), keepdim=True)


def test_an_image_with_nan_leaves_the_others_as_they_are() -> None:
    net, x = network("test_resnet"), images(64)
    expected = activation_maps(net, x)[1]
    x[0, 0, 0, 0] = float("nan")
    logits, maps = activation_maps(net, x)
    assert logits[0].isnan().any()
    assert torch.allclose(maps[1:], expected[1:], atol=1e-5)


def test_training_mode_and_other_modules_are_named() -> None:
    with pytest.raises(ValueError, match=r"call net\.eval"):
        activation_maps(network("test_resnet").train(), images(64))
    with pytest.raises(ValueError, match="Linear has no class activation maps"):
        activation_maps(nn.Linear(2, 2).eval(), images(64))


def test_hooks_are_removed() -> None:
    net = network("test_convnext")
    activation_maps(net, images(64))
    assert not any(module._forward_hooks for module in net.modules())
