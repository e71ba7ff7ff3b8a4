"""Activation checkpointing recomputes each forward pass with its own parameters; the wrapper decides whether to mix."""

import copy
import functools
from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from alignmix_timm import AlignMix, AlignMixModel, Autoencoder, MixParams, draw
from alignmix_timm.hooks.forward_pass import PassHistory
from alignmix_timm.mixers import AlignMixup, ManifoldMixup, OneOf
from alignmix_timm.params import Place

LABELS = torch.arange(4)
Backward = Callable[[list[Tensor]], object]


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    net = timm.create_model("test_resnet", num_classes=4).train()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0  # the statistics stay as they are
    return net


def images(seed: int = 1) -> Tensor:
    return torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


def checkpointed(net: nn.Module, use_reentrant: bool = False, nested: bool = False) -> None:
    """Recompute features and head in backward; nested: within the features, the stage in which they are mixed, too."""
    for module, name in [
        *([(net.layer3, "forward")] if nested else []),
        (net, "forward_features"),
        (net, "forward_head"),
    ]:
        setattr(module, name, functools.partial(checkpoint, getattr(module, name), use_reentrant=use_reentrant))


def in_order(losses: list[Tensor]) -> None:
    for loss in losses:
        loss.backward()


BACKWARD: dict[str, Backward] = {
    "sum": lambda losses: sum(losses).backward(),
    "in order": in_order,
    "reversed": lambda losses: in_order(losses[::-1]),
}


@pytest.mark.parametrize("order", BACKWARD)
@pytest.mark.parametrize(("use_reentrant", "nested"), [(False, False), (True, False), (False, True), (True, True)])
def test_each_forward_pass_is_recomputed_with_its_own_parameters(
    net: nn.Module, use_reentrant: bool, nested: bool, order: str
) -> None:
    passes = [draw(4, 0, step, modes=(mode,)) for step, mode in enumerate(("feat", "embed", "input", "none", "feat"))]
    passes.append(ManifoldMixup((2,)).draw(4, Place(0, 9)))

    def gradients(model: AlignMixModel) -> list[Tensor]:
        BACKWARD[order]([model(images(seed).requires_grad_(), LABELS, one).loss for seed, one in enumerate(passes)])
        return [parameter.grad for parameter in model.parameters()]

    mixer = OneOf((AlignMixup(), ManifoldMixup((2,))))
    plain, model = (AlignMixModel(copy.deepcopy(net), mixer=mixer, input_size=(3, 64, 64)).train() for _ in range(2))
    checkpointed(model.model, use_reentrant, nested)
    for found, expected in zip(gradients(model), gradients(plain), strict=True):
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_the_next_batch_may_be_drawn_before_the_last_is_recomputed(net: nn.Module) -> None:
    mixup_fn = AlignMix(net, modes=("feat", "embed"), input_size=(3, 64, 64))
    checkpointed(net)
    x, y = mixup_fn(images(), LABELS)
    for _ in range(3):
        loss = nn.functional.cross_entropy(net(x), y)
        x, y = mixup_fn(images(), LABELS)
        transport = mixup_fn.hooks.transport
        loss.backward()
        assert mixup_fn.hooks.pending
        assert mixup_fn.hooks.transport is transport
    net(x)
    mixup_fn.hooks.check()


def test_a_pass_that_was_not_mixed_is_recomputed_unmixed(net: nn.Module) -> None:
    mixup_fn = AlignMix(net, modes=("feat",), input_size=(3, 64, 64))
    expected = torch.autograd.grad(net(images()).square().sum(), net.conv1[0].weight)[0]
    checkpointed(net)
    before = net(images())
    x, _ = mixup_fn(images(), LABELS)
    net(x)
    mixup_fn.hooks.disarm()
    for logits in (before, net(images())):
        assert torch.equal(torch.autograd.grad(logits.square().sum(), net.conv1[0].weight)[0], expected)


def test_a_pass_that_was_forgotten_is_an_error(net: nn.Module) -> None:
    mixup_fn = AlignMix(net, modes=("feat",), input_size=(3, 64, 64))
    checkpointed(net)
    x, _ = mixup_fn(images(), LABELS)
    first = net(x).sum()
    for _ in range(PassHistory.KEPT):
        mixup_fn.hooks.disarm()
    with pytest.raises(RuntimeError, match="not among the last 64: run backward earlier"):
        first.backward()


def params(mode: str = "feat") -> MixParams:
    return draw(4, 0, 0, modes=(mode,))


def test_a_network_that_trains_under_a_wrapper_in_eval_mode_is_an_error(net: nn.Module) -> None:
    model = AlignMixModel(net).train()
    model(images(), LABELS, params())
    model.eval()
    net.train()
    for call in (lambda: model(images(), LABELS), lambda: net(images())):
        with pytest.raises(RuntimeError, match="AlignMixModel is in eval mode, its network in training mode"):
            call()
    with torch.no_grad():
        model(images(), LABELS)  # such as batch-norm statistics, or dropout to measure uncertainty
    model.train()
    assert model(images(), LABELS, params()).loss.isfinite()


def test_validation_within_training_is_not_mixed_and_changes_nothing(net: nn.Module) -> None:
    plain = net.eval()(images())
    model = AlignMixModel(net).train()
    unmixed = model(images(), LABELS, draw(4, 0, 0, prob=0.0)).logits
    for mode in ("feat", "embed"):
        model(images(), LABELS, params(mode))
        net.eval()
        with torch.no_grad():
            assert torch.equal(net(images()), plain)
        with pytest.raises(RuntimeError, match=r"use torch.no_grad\(\)"):
            net(images())
        net.train()
    assert not torch.equal(unmixed, model(images(), LABELS, params()).logits)


def test_validation_by_the_network_works_for_the_drop_in(net: nn.Module) -> None:
    plain = net.eval()(images())
    net.train()
    mixup_fn = AlignMix(net, modes=("feat", "embed"))
    for _ in range(4):
        x, _ = mixup_fn(images(), LABELS)
        assert torch.equal(net.eval()(images()), plain)
        net.train()
        net(x)
        assert torch.equal(net.eval()(images()), plain)
        net.train()
    mixup_fn.hooks.check()


def test_parts_of_an_autoencoder_that_disagree_are_an_error() -> None:
    net = timm.create_model(
        "alignmix_encoder", backbone="test_vit", img_size=64, backbone_args={"img_size": 64}, num_classes=4
    )
    for variational in (False, True):
        model = Autoencoder(net, (3, 64, 64), variational=variational).train()
        model.classifier.eval()
        with pytest.raises(RuntimeError, match=r"Autoencoder has training=True, its classifier False"):
            model(images(), LABELS, params())
        model.eval()
        model.net.train()
        with pytest.raises(RuntimeError, match=r"Autoencoder has training=False, .* the network in it True"):
            model(images(), LABELS)
        model.train()
        model.net.eval()  # frozen
        assert model(images(), LABELS, params()).loss.isfinite()
        model.classifier.detach()
