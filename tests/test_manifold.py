"""Manifold mixup at layers, alone and in turns with AlignMix, against forward passes by hand; stages by number."""

import copy
import pickle
from collections import Counter
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from alignmix_timm import AlignMixModel, MixParams
from alignmix_timm.mixers import AlignMixup, ManifoldMixup, OneOf
from alignmix_timm.params import Place
from alignmix_timm.points.stages import stage_module

CLASSES = 8
LABELS = torch.arange(8)

Layers = dict[str | int, str]  # as given, and the module it stands for
NETWORKS: dict[str, tuple[dict[str, Any], int, Layers]] = {
    "test_resnet": ({}, 64, {1: "layer1", 2: "layer2", "layer3.0": "layer3.0"}),
    "test_vit": ({"img_size": 64}, 64, {1: "blocks.0", "blocks.2": "blocks.2"}),
    "preact_resnet18": ({"width": 4}, 32, {1: "stages.0", 2: "stages.1", "stages.2.0": "stages.2.0"}),
}


def build(name: str) -> tuple[nn.Module, Tensor, Layers]:
    torch.manual_seed(0)
    options, size, layers = NETWORKS[name]
    net = timm.create_model(name, num_classes=CLASSES, **options).train()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return net, torch.randn(8, 3, size, size, generator=torch.Generator().manual_seed(1)), layers


def by_hand(net: nn.Module, images: Tensor, module: str, params: MixParams) -> Tensor:
    """Logits where the output of a module was mixed position by position."""

    def hook(module: nn.Module, args: object, output: Tensor) -> Tensor:
        lam = params.lam.view(-1, *[1] * (output.ndim - 1))
        return lam * output + (1 - lam) * output[params.perm]

    handle = net.get_submodule(module).register_forward_hook(hook)
    logits = net(images)
    handle.remove()
    return logits


@pytest.mark.parametrize("name", NETWORKS)
def test_manifold_mixup_mixes_the_layer_it_drew_and_alignmix_takes_turns(name: str) -> None:
    """In one run: Manifold's features are mixed in place and the transport is AlignMix's alone."""
    net, images, layers = build(name)
    mixer = OneOf((ManifoldMixup(("input", *layers)), AlignMixup(modes=("feat",))))
    plain = copy.deepcopy(net)
    model = AlignMixModel(net, mixer=mixer, input_size=tuple(images.shape[1:]))
    model.training = True  # batch norm stays as it is
    point, seen = model.hooks.point.feature_module, Counter[str]()
    with torch.no_grad():
        for step in range(20):
            params = mixer.draw(8, Place(1, step))
            logits = model(images, LABELS, params).logits
            seen[params.label] += 1
            if params.mixer == "alignmix":
                assert model.hooks.transport is not None
                assert not torch.allclose(logits, by_hand(plain, images, point, params), atol=1e-4)
                continue
            if params.layer == "input":
                lam = params.lam.view(-1, 1, 1, 1)
                expected = plain(lam * images + (1 - lam) * images[params.perm])
            else:
                assert model.hooks.transport is None
                expected = by_hand(plain, images, layers[params.layer], params)
            assert torch.allclose(logits, expected, atol=1e-5), params.label
    assert len(seen) == len(layers) + 2


def test_batch_norm_sees_clean_features_before_the_layer_and_mixed_ones_after() -> None:
    net, images, _ = build("test_resnet")
    for module in net.train().modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # the statistics of the last batch
    clean, mixed = copy.deepcopy(net), copy.deepcopy(net)
    model = AlignMixModel(net, mixer=ManifoldMixup((2,)), input_size=(3, 64, 64)).train()
    params = model.mixer.draw(8, Place(0, 0))
    model(images, LABELS, params)
    clean(images)
    by_hand(mixed, images, "layer2", params)
    unlike_clean = set()
    for (name, found), (_, plain), (_, expected) in zip(
        net.named_buffers(), clean.named_buffers(), mixed.named_buffers(), strict=True
    ):
        assert torch.allclose(found, expected, atol=1e-5), name
        if not torch.allclose(found, plain, rtol=1e-3):
            unlike_clean.add(name.partition(".")[0])
    assert unlike_clean == {"layer3", "layer4"}


def test_features_are_aligned_only_if_batch_and_network_are() -> None:
    net, images, _ = build("test_resnet")
    for assignment in ("transport", "none"):
        for mixer in (AlignMixup(modes=("feat",)), AlignMixup(modes=("feat",), aligned=False)):
            model = AlignMixModel(
                copy.deepcopy(net), mixer=mixer, assignment=assignment, input_size=(3, 64, 64)
            ).train()
            model(images, LABELS, mixer.draw(8, Place(0, 0)))
            assert (model.hooks.transport is not None) == (assignment == "transport" and mixer.aligned)


@pytest.mark.parametrize("through", ["deepcopy", "pickle"])
def test_a_copy_of_a_wrapper_mixes_at_layers_of_its_own(through: str) -> None:
    net, images, _ = build("test_resnet")
    mixer = ManifoldMixup((1, "layer3"))
    model = AlignMixModel(net, mixer=mixer, input_size=(3, 64, 64))
    model.training = True
    copied = copy.deepcopy(model) if through == "deepcopy" else pickle.loads(pickle.dumps(model))
    for step in range(6):
        params = mixer.draw(8, Place(0, step))
        assert torch.equal(copied(images, LABELS, params).logits, model(images, LABELS, params).logits)
    copied.detach()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in copied.modules())
    assert not model(images, LABELS, params).logits.equal(copied.model(images))


STAGES = {
    "resnet50": ["layer1", "layer2", "layer3", "layer4"],
    "preact_resnet18": ["stages.0", "stages.1", "stages.2", "final"],
    "wide_resnet16_8": ["stages.0", "stages.1", "final"],
    "vgg16_gap": ["stages.0", "stages.1", "stages.2", "stages.3", "stages.4"],
    "convnext_atto": ["stages.0", "stages.1", "stages.2", "stages.3"],
    "efficientnet_b0": ["blocks.0", "blocks.1", "blocks.2", "blocks.4", "blocks.6"],
    "mobilenetv3_small_050": ["blocks.0", "blocks.1", "blocks.3", "blocks.5"],
    "test_efficientnet": ["blocks.0", "blocks.1", "blocks.2", "blocks.3", "blocks.4"],
    "regnetx_002": ["s1", "s2", "s3", "s4"],
    "densenet121": ["features.denseblock1", "features.denseblock2", "features.denseblock3", "features.norm5"],
    "inception_v3": ["Mixed_5d", "Mixed_6e", "Mixed_7c"],
    "test_vit": ["blocks.0", "blocks.1", "blocks.2", "blocks.3", "blocks.4", "blocks.5"],
    "swin_tiny_patch4_window7_224": ["layers.0", "layers.1", "layers.2", "layers.3"],
    "vgg11": [],  # timm names single activations
    "xception41": [],
    "hrnet_w18_small": [],
}


@pytest.mark.parametrize("name", STAGES)
def test_stages_by_number(name: str) -> None:
    with torch.device("meta"):
        net = timm.create_model(name)
    expected = STAGES[name]
    assert [stage_module(net, number + 1) for number in range(len(expected))] == expected
    message = (
        f"has {len(expected)} stages, {', '.join(expected)}. Name" if expected else "does not list its stages. Name"
    )
    with pytest.raises(ValueError, match=message):
        stage_module(net, len(expected) + 1)


def test_stages_of_an_encoder_are_those_of_its_backbone() -> None:
    options = dict(backbone="preact_resnet18", img_size=32, embed_dim=16, backbone_args={"width": 4})
    net = timm.create_model("alignmix_encoder", num_classes=CLASSES, **options)
    model = AlignMixModel(net, mixer=ManifoldMixup((1, 2)), input_size=(3, 32, 32)).train()
    assert model(torch.randn(8, 3, 32, 32), LABELS, model.mixer.draw(8, Place(0, 0))).loss.isfinite()
    assert stage_module(net, 2) == "features.backbone.stages.1"
