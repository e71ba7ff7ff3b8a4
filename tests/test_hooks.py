"""The drop-in for timm.data.Mixup, and what goes wrong loudly."""

import copy
import gc
import math
import pickle
import warnings
from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

import alignmix_timm
from alignmix_timm import AlignMix, AlignMixModel, attach, detach, draw


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("test_resnet", num_classes=4).train()


def images(batch: int = 4) -> Tensor:
    return torch.randn(batch, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def test_mixup_enabled_turns_mixing_off(net: nn.Module) -> None:
    mixup_fn = AlignMix(net, label_smoothing=0.1)
    mixup_fn.mixup_enabled = False
    x, y = mixup_fn(images(), torch.arange(4))
    assert torch.equal(x, images())
    assert torch.allclose(y, timm.data.mixup.mixup_target(torch.arange(4), 4, lam=1.0, smoothing=0.1))
    net(x)


def test_validation_between_batches_is_not_mixed(net: nn.Module) -> None:
    expected = net.eval()(images())
    mixup_fn = AlignMix(net, modes=("feat",))
    x, _ = mixup_fn(images(), torch.arange(4))
    assert torch.equal(net(x), expected)  # eval mode: nothing happens, and the batch stays to be mixed
    with pytest.raises(RuntimeError, match=r"mode 'feat', but the hook on 'layer3.0' did not run.*eval mode"):
        mixup_fn(images(), torch.arange(4))


def test_validation_between_drawing_and_training_changes_nothing(net: nn.Module) -> None:
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0
    mixup_fn, logits = AlignMix(net, modes=("feat",)), []
    for validate in (False, True):
        mixup_fn.step = 0
        x, _ = mixup_fn(images(), torch.arange(4))
        if validate:
            net.eval()(images())
            net.train()
        logits.append(net(x))
    assert torch.equal(*logits)


def test_a_failed_forward_pass_is_not_held_against_the_next(net: nn.Module) -> None:
    model = AlignMixModel(net).train()
    broken = net.conv1.register_forward_pre_hook(lambda module, args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model(images(), torch.arange(4), draw(4, 0, 0, modes=("feat",)))
    broken.remove()
    assert model(images(), torch.arange(4), draw(4, 0, 0, modes=("feat",))).loss.isfinite()


def test_other_hooks_never_see_the_trace(net: nn.Module) -> None:
    seen = []
    net.layer2.register_forward_hook(lambda module, args, output: seen.append(output))
    net.layer2.register_forward_pre_hook(lambda module, args: seen.append(args))
    AlignMix(net).detach()
    assert seen == []


def test_attaching_twice_is_an_error_until_detached(net: nn.Module) -> None:
    model = AlignMixModel(net)
    for hooked in (net, copy.deepcopy(net), pickle.loads(pickle.dumps(model)).model):
        with pytest.raises(ValueError, match=r"attached already, .* call alignmix_timm.detach"):
            AlignMix(hooked)
        detach(hooked)
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in hooked.modules())
    AlignMix(net).detach()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="no effect"):
            attach(net, feature_module="layer4")
    AlignMix(net).detach()
    with pytest.raises(TypeError, match="epsilom"):
        AlignMix(net, epsilom=0.1)


def test_a_size_that_fails_leaves_the_point_alone(net: nn.Module) -> None:
    mixup_fn = AlignMix(net, modes=("feat",), align_size=6, input_size=(3, 160, 160))
    for _ in range(2):
        with pytest.raises(ValueError, match="align_size must be in"):
            mixup_fn(torch.randn(4, 3, 64, 64), torch.arange(4))
    x, _ = mixup_fn(torch.randn(4, 3, 160, 160), torch.arange(4))
    net(x)
    assert mixup_fn.hooks.transport.assignment.shape == (4, 25, 25)


def test_images_of_another_size_than_the_drawn_are_an_error(net: nn.Module) -> None:
    mixup_fn = AlignMix(net, modes=("feat",), input_size=(3, 160, 160))
    mixup_fn(torch.randn(4, 3, 160, 160), torch.arange(4))
    with pytest.raises(RuntimeError, match=r"map of 10 x 10 at 'layer3.0'; the model got images with one of 16"):
        net(images())


def test_every_image_size_has_its_point(net: nn.Module) -> None:
    mixup_fn = AlignMix(net, modes=("feat",), input_size=(3, 160, 160))
    for size, module in ((160, "layer3.0"), (64, "layer3.0"), (32, "layer2.0"), (160, "layer3.0")):
        x, _ = mixup_fn(torch.randn(4, 3, size, size), torch.arange(4))
        net(x)
        assert mixup_fn.hooks.point.feature_module == module
        assert min(mixup_fn.hooks.point.map_size) >= 4
    mixup_fn.detach()
    by_hand = AlignMix(net, modes=("feat",), feature_module="layer3.0")
    with pytest.warns(UserWarning, match="the map at 'layer3.0' is 2 x 2, under 4 x 4"):
        by_hand(torch.randn(4, 3, 32, 32), torch.arange(4))


def test_a_batch_that_no_hook_mixed_is_an_error(net: nn.Module) -> None:
    mixup_fn = AlignMix(net, modes=("embed",))
    mixup_fn(images(), torch.arange(4))
    other = timm.create_model("test_resnet", num_classes=4)
    other(images())
    with pytest.raises(RuntimeError, match="the hook on 'fc' did not run"):
        mixup_fn(images(), torch.arange(4))
    x, _ = mixup_fn(images(), torch.arange(4))  # reported once
    other(x)
    with pytest.raises(RuntimeError, match="the hook on 'fc' did not run"):
        mixup_fn.hooks.check()


def test_a_forward_pass_without_fresh_parameters_is_an_error(net: nn.Module) -> None:
    net(images())  # before the first batch nothing is expected
    mixup_fn = AlignMix(net)
    for _ in range(5):
        x, _ = mixup_fn(images(), torch.arange(4))
        net(x)
        with pytest.raises(RuntimeError, match="without fresh mixing parameters"):
            net(x)
    mixup_fn.hooks.disarm()
    net(images())


def test_another_batch_than_the_drawn_one_is_an_error(net: nn.Module) -> None:
    mixup_fn = AlignMix(net, modes=("feat",))
    mixup_fn(images(), torch.arange(4))
    with pytest.raises(RuntimeError, match="drawn for 4 examples, the model got 3"):
        net(images(3))


def test_non_finite_features_are_noticed_by_the_next_batch(net: nn.Module) -> None:
    mixup_fn = AlignMix(net, modes=("feat",))
    x, _ = mixup_fn(images(), torch.arange(4))
    x[0, 0, 0, 0] = math.inf
    net(x)
    with pytest.raises(FloatingPointError, match="not finite"):
        mixup_fn(images(), torch.arange(4))


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_activation_checkpointing_recomputes_the_same_mix(net: nn.Module, use_reentrant: bool) -> None:
    def gradient(checkpoint: bool) -> tuple[Tensor, Tensor]:
        net.zero_grad()
        mixup_fn = AlignMix(net, modes=("feat",), seed=3, feature_module="layer2")
        x, y = mixup_fn(images().requires_grad_(), torch.arange(4))
        plain = net.forward_features
        if checkpoint:
            net.forward_features = lambda z: torch.utils.checkpoint.checkpoint(plain, z, use_reentrant=use_reentrant)
        loss = nn.functional.cross_entropy(net(x), y)
        loss.backward()
        net.forward_features = plain
        mixup_fn.detach()
        return loss, net.conv1[0].weight.grad.clone()

    plain, checkpointed = gradient(False), gradient(True)
    assert torch.equal(plain[0], checkpointed[0])
    assert torch.equal(plain[1], checkpointed[1])


def test_distilled_models_mix_both_heads() -> None:
    torch.manual_seed(0)
    net = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=4, img_size=64, depth=2).train()
    hooks = attach(net, feature_module="blocks.0")
    embeddings = {}
    net.head.register_forward_hook(lambda m, args, out: embeddings.update(first=args[0]))
    net.head_dist.register_forward_hook(lambda m, args, out: embeddings.update(second=args[0]))
    hooks.arm(draw(4, 0, 0, prob=0.0), (3, 64, 64))
    net(images())
    plain = dict(embeddings)
    params = draw(4, 0, 0, modes=("embed",))
    hooks.arm(params, (3, 64, 64))
    net(images())
    for head in ("first", "second"):
        lam = params.lam[:, None]
        assert torch.allclose(embeddings[head], lam * plain[head] + (1 - lam) * plain[head][params.perm], atol=1e-5)


def test_blocks_that_return_tuples() -> None:
    torch.manual_seed(0)
    net = timm.create_model("mvitv2_tiny", num_classes=4, img_size=64).train()
    mixup_fn = AlignMix(net, modes=("feat",), input_size=(3, 64, 64), feature_module="stages.1.blocks.1")
    x, _ = mixup_fn(images(), torch.arange(4))
    mixed = net(x)
    mixup_fn.mixup_enabled = False
    x, _ = mixup_fn(images(), torch.arange(4))
    assert not torch.allclose(net(x), mixed, atol=1e-3)


class AlsoReadsItsInput(nn.Module):
    """Like LoRA: what it wraps, and another branch beside it."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base, self.beside = base, nn.Linear(base.in_features, base.out_features, bias=False)

    def forward(self, embedding: Tensor) -> Tensor:
        return self.base(embedding) + self.beside(embedding)


class Around(nn.Module):
    """A module put around another, which then has a longer name."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, feats: Tensor) -> Tensor:
        return self.inside(feats)


REPLACE: dict[str, Callable[[nn.Module], None]] = {
    "classifier wrapped": lambda net: setattr(net, "fc", AlsoReadsItsInput(net.fc)),
    "classifier reset": lambda net: net.reset_classifier(6),
    "classifier parametrized": lambda net: weight_norm(net.fc) and None,
    "feature module wrapped": lambda net: net.layer3.__setitem__(0, Around(net.layer3[0])),
    "feature module within": lambda net: setattr(net, "layer3", Around(net.layer3)),
    "feature module replaced": lambda net: net.layer3.__setitem__(0, timm.create_model("test_resnet").layer3[0]),
}


@pytest.mark.parametrize("change", REPLACE)
@pytest.mark.parametrize("mode", ["feat", "embed"])
def test_modules_replaced_after_attaching_are_hooked_anew(net: nn.Module, mode: str, change: str) -> None:
    expected, hooked = (AlignMixModel(one, input_size=(3, 64, 64)) for one in (copy.deepcopy(net), net))
    labels, params = torch.arange(4), draw(4, 0, 0, modes=(mode,))
    hooked.train()(images(), labels, params)
    net.load_state_dict(expected.state_dict())  # undo the batch-norm update
    network = expected.detach()
    for one in (net, network):
        torch.manual_seed(0)
        REPLACE[change](one)
    expected = AlignMixModel(network, input_size=(3, 64, 64)).train()  # attached after the change
    for _ in range(2):
        logits = hooked(images(), labels, params).logits
        assert torch.equal(logits, expected(images(), labels, params).logits)
    assert hooked.hooks.point == expected.hooks.point
    assert count_hooks(net) == count_hooks(network) == 2
    hooked.detach()
    assert count_hooks(net) == 0


def count_hooks(net: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in net.modules())


def test_a_network_whose_classifier_was_replaced_can_be_copied(net: nn.Module) -> None:
    mixup_fn = AlignMix(net)
    net.reset_classifier(6)
    gc.collect()
    copy.deepcopy(net)(images())
    x, y = mixup_fn(images(), torch.tensor([5, 1, 0, 2]))
    assert net(x).shape == y.shape == (4, 6)


def test_what_was_replaced_since_the_draw_is_named(net: nn.Module) -> None:
    mixup_fn = AlignMix(net, modes=("embed",))
    x, _ = mixup_fn(images(), torch.arange(4))
    net.reset_classifier(4)
    net(x)
    with pytest.raises(RuntimeError, match=r"Since it was drawn, \['fc'\] were replaced.*skipped, call disarm\(\)"):
        mixup_fn(images(), torch.arange(4))
    x, _ = mixup_fn(images(), torch.arange(4))
    net(x)
    mixup_fn.hooks.check()


@pytest.mark.parametrize("size", [64, 96])
def test_a_detached_network_is_never_hooked_again(net: nn.Module, size: int) -> None:
    model = AlignMixModel(net, input_size=(3, 64, 64)).train()
    model.detach()
    batch = torch.randn(4, 3, size, size)
    with pytest.raises(RuntimeError, match="mode 'feat', but AlignMix was detached from the model: attach it again"):
        model(batch, torch.arange(4), draw(4, 0, 0, modes=("feat",)))
    model(batch, torch.arange(4), draw(4, 0, 0, modes=("input",)))  # needs no hook
    assert count_hooks(net) == 0


@pytest.mark.parametrize("options", [{}, {"feature_module": "layer3.0"}])
def test_attaching_in_inference_mode(net: nn.Module, options: dict[str, str]) -> None:
    with torch.inference_mode():
        model = AlignMixModel(net, input_size=(3, 64, 64), **options)
        alignmix_timm.choose_point(timm.create_model("test_resnet", num_classes=4))
    assert model.train()(images(), torch.arange(4), draw(4, 0, 0, modes=("feat",))).loss.isfinite()
