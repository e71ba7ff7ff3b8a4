"""timm's tools take a wrapper for the network inside it."""

from typing import Any

import pytest
import timm
import torch
from timm.data import resolve_data_config
from timm.models import group_modules, group_parameters
from timm.optim import create_optimizer_v2
from torch import nn

from alignmix_timm import AlignMixModel, Autoencoder, choose_point

# pit has no group_matcher: timm then groups parameters by their number.
NAMES = ("test_vit", "test_resnet", "test_convnext", "pit_ti_224", "tiny_vit_5m_224")


class CountedLoss(nn.CrossEntropyLoss):
    """A loss with a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(()))


def groups(model: nn.Module, **options: Any) -> list[dict[str, Any]]:
    """The groups of an optimizer, with parameters by identity."""
    optimizer = create_optimizer_v2(model, "adamw", lr=1e-3, weight_decay=0.05, **options)
    return [{**group, "params": [id(parameter) for parameter in group["params"]]} for group in optimizer.param_groups]


@pytest.mark.parametrize("name", NAMES)
def test_groups_of_an_optimizer_are_those_of_the_network(name: str) -> None:
    net = timm.create_model(name, num_classes=4)
    plain, by_layer = groups(net), groups(net, layer_decay=0.7)
    assert (len(plain), len(by_layer) > 4) == (2, True)
    model = AlignMixModel(net)
    assert groups(model) == plain
    assert groups(model, layer_decay=0.7) == by_layer


@pytest.mark.parametrize("coarse", [False, True])
def test_layers_of_modules_are_those_of_the_network(coarse: bool) -> None:
    net = timm.create_model("test_vit", num_classes=4)
    expected = group_modules(net, net.group_matcher(coarse), reverse=True)
    wrapped = AlignMixModel(net)
    found = group_modules(wrapped, wrapped.group_matcher(coarse), reverse=True)
    assert expected.items() <= found.items()


@pytest.mark.parametrize("name", ["test_vit", "pit_ti_224"])
def test_parameters_beside_the_network_learn_as_its_last_layer(name: str) -> None:
    net = timm.create_model(name, num_classes=4)
    expected = groups(net, layer_decay=0.7)
    criterion = CountedLoss()
    found = groups(AlignMixModel(net, criterion), layer_decay=0.7)
    (last,) = [group for group in found if id(criterion.temperature) in group["params"]]
    assert last["lr_scale"] == 1.0
    last["params"].remove(id(criterion.temperature))
    assert found == expected


@pytest.mark.parametrize("matcher", [lambda name: name.startswith("fc"), {"stem": r"^[^f]", "head": [(r"fc", None)]}])
def test_matchers_of_every_kind(matcher: Any) -> None:
    net = timm.create_model("test_resnet", num_classes=4)
    net.group_matcher = lambda coarse=False: matcher
    wrapped = AlignMixModel(net)
    expected = group_parameters(net, matcher, reverse=True)
    assert set(expected.values()) == {0, 1}
    found = group_parameters(wrapped, wrapped.group_matcher(), reverse=True)
    assert found == expected


def test_config_classifier_and_checkpointing_are_those_of_the_network() -> None:
    net = timm.create_model("test_vit", num_classes=4)
    wrapped = AlignMixModel(net)
    assert resolve_data_config({}, model=wrapped) == resolve_data_config({}, model=net)
    assert wrapped.get_classifier() is net.head
    assert (wrapped.num_features, wrapped.default_cfg) == (net.num_features, net.default_cfg)
    wrapped.set_grad_checkpointing()
    assert net.grad_checkpointing
    assert choose_point(wrapped) == choose_point(net)
    wrapped.reset_classifier(7)
    assert wrapped.num_classes == net.head.out_features == 7
    assert wrapped.head is net.head
    assert not hasattr(AlignMixModel(timm.create_model("test_resnet", num_classes=4)), "num_prefix_tokens")


@pytest.mark.parametrize("variational", [False, True])
def test_the_encoder_of_an_autoencoder_is_grouped_as_alone(variational: bool) -> None:
    backbone = {"backbone": "test_vit", "img_size": 64, "backbone_args": {"img_size": 64}}
    net = timm.create_model("alignmix_encoder", num_classes=4, **backbone)
    plain, by_layer = groups(net), groups(net, layer_decay=0.7)
    known = {id(parameter) for parameter in net.parameters()}
    model = Autoencoder(net, (3, 64, 64), variational=variational)
    for layer_decay, expected in ((None, plain), (0.7, by_layer)):
        found = groups(model, layer_decay=layer_decay)
        for group in found:
            group["params"] = [parameter for parameter in group["params"] if parameter in known]
        assert [group for group in found if group["params"]] == expected
    assert model.num_classes == 4
    assert model.get_classifier() is net.head
    model.reset_classifier(6)
    assert model.num_classes == model.classifier.num_classes == 6
