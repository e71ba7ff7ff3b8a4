"""Every mode against a forward pass written by hand from the network's parts, in training mode."""

import copy
import math
import pickle
from collections.abc import Callable

import pytest
import timm
import torch
import torchvision
import transformers
from torch import Tensor, nn

from alignmix_timm import AlignMix, AlignMixModel, MixParams, alignmix, assign, choose_point, draw

LABELS = torch.arange(4)
Split = tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]


def resnet(net: nn.Module) -> Split:
    def features(x: Tensor) -> Tensor:
        x = net.maxpool(net.act1(net.bn1(net.conv1(x))))
        return net.layer4[0](net.layer3(net.layer2(net.layer1(x))))

    return features, lambda feats: net.global_pool(net.layer4[1](feats)), net.fc


def vit(net: nn.Module) -> Split:
    def features(x: Tensor) -> Tensor:
        x = net.norm_pre(net.patch_drop(net._pos_embed(net.patch_embed(x))))
        for block in net.blocks[:-1]:
            x = block(x)
        return x

    return features, lambda feats: net.head_drop(net.fc_norm(net.norm(net.blocks[-1](feats))[:, 0])), net.head


def swin(net: nn.Module) -> Split:
    def features(x: Tensor) -> Tensor:
        x = net.layers[:-1](net.patch_embed(x))
        return net.layers[-1].blocks[0](net.layers[-1].downsample(x))

    return features, lambda feats: net.norm(net.layers[-1].blocks[1](feats)).mean((1, 2)), net.head.fc


NETWORKS = {
    "resnet18": (resnet, {}, 128, "NCHW"),
    "vit_tiny_patch16_224": (vit, {"img_size": 96}, 96, "CLS"),
    "swin_tiny_patch4_window7_224": (swin, {"img_size": 224, "drop_path_rate": 0.0}, 224, "NHWC"),
}


@pytest.fixture(scope="module", params=NETWORKS)
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, Split, Tensor, str]:
    torch.manual_seed(0)
    parts, options, size, kind = NETWORKS[request.param]
    net = timm.create_model(request.param, num_classes=7, **options).train()
    return net, parts(net), torch.randn(4, 3, size, size), kind


def mix_by_hand(feats: Tensor, params: MixParams, kind: str) -> Tensor:
    """Algorithm 1, lines 18 to 26, one example after the other."""
    rows = []
    for row, (lam, partner) in enumerate(zip(params.lam.tolist(), params.perm.tolist(), strict=True)):
        a, b = feats[row], feats[partner]
        if kind == "CLS":
            tokens = alignmix(a[None, 1:], b[None, 1:], lam)[0]
            rows.append(torch.cat([lam * a[:1] + (1 - lam) * b[:1], tokens]))
        elif kind == "NHWC":
            rows.append(alignmix(a.flatten(0, 1)[None], b.flatten(0, 1)[None], lam)[0].view_as(a))
        else:
            rows.append(alignmix(a.flatten(1).T[None], b.flatten(1).T[None], lam)[0].T.reshape(a.shape))
    return torch.stack(rows)


def mixed(items: Tensor, params: MixParams) -> Tensor:
    lam = params.lam.view(-1, *[1] * (items.ndim - 1))
    return lam * items + (1 - lam) * items[params.perm]


@pytest.mark.parametrize("mode", ["none", "input", "embed", "feat", "feat_swap"])
def test_mode_equals_a_forward_pass_by_hand(case: tuple[nn.Module, Split, Tensor, str], mode: str) -> None:
    net, (features, embed, classify), images, kind = case
    params = draw(4, 3, 1, modes=(mode,))
    model = AlignMixModel(net, input_size=tuple(images.shape[1:])).train()
    labels = torch.tensor([0, 6, 2, 2])
    output = model(images, labels, params)
    model.detach()
    if mode == "input":
        expected = classify(embed(features(mixed(images, params))))
    elif mode == "embed":
        expected = classify(mixed(embed(features(images)), params))
    elif mode == "none":
        expected = classify(embed(features(images)))
    else:
        expected = classify(embed(mix_by_hand(features(images), params, kind)))
    assert torch.allclose(output.logits, expected, atol=2e-4)
    targets = torch.nn.functional.one_hot(labels, 7).float()
    targets = targets if mode == "none" else mixed(targets, params)
    loss = -(targets * expected.log_softmax(1)).sum(1).mean()
    assert torch.allclose(output.loss, loss, atol=1e-4)
    assert mode in ("none", "input") or not torch.allclose(expected, net(images), atol=1e-2)


def unmixed_batch_norm(net: nn.Module) -> None:
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


@pytest.mark.parametrize("mode", ["input", "embed", "feat", "feat_swap"])
def test_lam_one_changes_no_bit(case: tuple[nn.Module, Split, Tensor, str], mode: str) -> None:
    net, _, images, _ = case
    model = AlignMixModel(net, input_size=tuple(images.shape[1:])).train()
    unmixed_batch_norm(net)
    plain = model(images, LABELS, mix=draw(4, 0, 0, prob=0.0)).logits
    params = MixParams(mode, torch.ones(4), torch.tensor([2, 0, 3, 1]))
    assert torch.equal(model(images, LABELS, mix=params).logits, plain)
    model.detach()


@pytest.mark.parametrize("mode", ["input", "embed", "feat"])
def test_targets_belong_to_the_first_image(mode: str) -> None:
    """With lam near 1, row i must look like image i: fails if images or targets are exchanged."""
    torch.manual_seed(0)
    net = timm.create_model("test_resnet", num_classes=4)
    seen = {}
    criterion = lambda logits, targets: seen.update(targets=targets) or logits.sum()  # noqa: E731
    model = AlignMixModel(net, criterion, input_size=(3, 64, 64)).train()
    unmixed_batch_norm(net)
    images = torch.randn(4, 3, 64, 64)
    params = MixParams(mode, torch.full((4,), 0.99), torch.tensor([1, 2, 3, 0]))
    plain = model(images, LABELS, mix=draw(4, 0, 0, prob=0.0)).logits
    logits = model(images, LABELS, params).logits
    assert torch.cdist(logits, plain).argmin(1).tolist() == [0, 1, 2, 3]
    assert torch.allclose(seen["targets"], 0.99 * torch.eye(4) + 0.01 * torch.eye(4)[params.perm])


@pytest.fixture
def small() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("test_resnet", num_classes=4)


def small_images(batch: int = 4) -> Tensor:
    return torch.randn(batch, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def test_eval_and_detached_models_are_the_plain_one_to_the_bit(small: nn.Module) -> None:
    plain = copy.deepcopy(small).eval()
    expected, keys = plain(small_images()), list(plain.state_dict())
    model = AlignMixModel(small)
    model(small_images(), LABELS, mix=draw(4, 0, 0, modes=("feat",)))
    small.load_state_dict(plain.state_dict())  # undo the batch-norm update
    model.eval()
    assert torch.equal(model(small_images(), LABELS, mix=draw(4, 0, 1, modes=("input",))).logits, expected)
    assert list(model.state_dict()) == list(small.state_dict()) == keys
    assert type(small) is type(plain)
    restored = model.detach()
    assert restored is small
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in small.modules())
    assert torch.equal(small.train()(small_images()), plain.train()(small_images()))


def test_state_dict_is_that_of_the_timm_model(small: nn.Module) -> None:
    model = AlignMixModel(small, nn.CrossEntropyLoss(weight=torch.rand(4)))
    other = timm.create_model("test_resnet", num_classes=4)
    other.load_state_dict(model.state_dict())
    again = AlignMixModel(timm.create_model("test_resnet", num_classes=4), nn.CrossEntropyLoss(weight=torch.rand(4)))
    again.load_state_dict(other.state_dict())
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in small.state_dict().items())
    nested = nn.Sequential(again)
    nested.load_state_dict(nested.state_dict())
    assert "0.conv1.0.weight" in nested.state_dict()
    with pytest.raises(RuntimeError, match="Missing key"):
        again.load_state_dict({})


def test_deepcopy_of_the_hooked_network_never_mixes(small: nn.Module) -> None:
    mixup_fn = AlignMix(small, modes=("feat",))
    mixup_fn(small_images(), torch.arange(4))
    ema = copy.deepcopy(small)
    with torch.no_grad():
        ema.fc.bias += 1
    assert torch.allclose(ema.eval()(small_images()), small.eval()(small_images()) + 1, atol=1e-6)
    plain = timm.create_model("test_resnet", num_classes=4)
    plain.load_state_dict(ema.state_dict())
    assert torch.equal(plain.train()(small_images()), ema.train()(small_images()))  # no mixing in training either


@pytest.mark.parametrize("through", ["deepcopy", "pickle"])
def test_a_copy_of_the_wrapper_is_a_wrapper_of_its_own(small: nn.Module, through: str) -> None:
    model = AlignMixModel(small).train()
    params = draw(4, 0, 0, modes=("feat",))
    model(small_images(), LABELS, mix=params)
    copied = copy.deepcopy(model) if through == "deepcopy" else pickle.loads(pickle.dumps(model))
    assert copied.hooks.root is copied
    assert copied.hooks.model is copied.model
    assert torch.equal(
        copied(small_images(), LABELS, mix=params).logits, model(small_images(), LABELS, mix=params).logits
    )
    with torch.no_grad():
        copied.model.fc.bias += 1
    assert not torch.equal(copied.model.fc.bias, small.fc.bias)
    copied.detach()
    model(small_images(), LABELS, mix=params)  # still hooked
    assert not any(module._forward_hooks for module in copied.modules())


def test_a_frozen_backbone_in_eval_mode_still_mixes(small: nn.Module) -> None:
    model = AlignMixModel(small).train()
    small.eval()
    plain = model(small_images(), LABELS, mix=draw(4, 0, 0, prob=0.0)).logits
    assert not torch.allclose(model(small_images(), LABELS, mix=draw(4, 0, 0, modes=("feat",))).logits, plain)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_hooks_keep_dtype_and_memory_format(
    small: nn.Module, dtype: torch.dtype, memory_format: torch.memory_format
) -> None:
    model = AlignMixModel(small.to(memory_format=memory_format), input_size=(3, 64, 64)).train()
    seen = {}
    feature_module = small.get_submodule(model.hooks.point.feature_module)
    feature_module.register_forward_hook(lambda m, a, out: seen.update(after=out))
    feature_module.register_forward_hook(lambda m, a, out: seen.update(before=out), prepend=True)
    images = small_images().to(memory_format=memory_format)
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        output = model(images, torch.arange(4), draw(4, 0, 0, modes=("feat",)))
    before, after = seen["before"], seen["after"]
    assert before is not after
    assert (after.dtype, after.stride(), after.shape) == (before.dtype, before.stride(), before.shape)
    assert output.loss.isfinite()


def test_all_kinds_of_labels(small: nn.Module) -> None:
    model = AlignMixModel(small).train()
    unmixed_batch_norm(small)
    params, indices = draw(4, 0, 0, modes=("input",)), torch.tensor([0, 3, 1, 1])
    one_hot = torch.nn.functional.one_hot(indices, 4)
    loss = model(small_images(), indices, params).loss
    assert torch.equal(model(small_images(), one_hot, params).loss, loss)
    assert torch.equal(model(small_images(), one_hot.float(), params).loss, loss)
    assert torch.equal(model(small_images(), indices.int(), params).loss, loss)


def test_multi_label_and_binary_targets_take_any_criterion(small: nn.Module) -> None:
    model = AlignMixModel(small, nn.BCEWithLogitsLoss()).train()
    targets = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0], [0, 1, 1, 1], [1, 0, 0, 0]]).float()
    params = draw(4, 0, 0, modes=("embed",))
    output = model(small_images(), targets, params)
    expected = nn.functional.binary_cross_entropy_with_logits(output.logits, mixed(targets, params))
    assert torch.allclose(output.loss, expected)
    binary = AlignMixModel(timm.create_model("test_resnet", num_classes=1), nn.BCEWithLogitsLoss()).train()
    output = binary(small_images(), torch.tensor([0, 1, 1, 0]), params)
    expected = nn.functional.binary_cross_entropy_with_logits(
        output.logits, mixed(torch.tensor([[0.0], [1.0], [1.0], [0.0]]), params)
    )
    assert torch.allclose(output.loss, expected)


def test_label_smoothing_is_timms_and_only_for_training(small: nn.Module) -> None:
    model = AlignMixModel(small, label_smoothing=0.1).train()
    params, labels = draw(4, 0, 0, modes=("embed",)), torch.tensor([0, 3, 1, 1])
    output = model(small_images(), labels, params)
    smooth = timm.data.mixup.mixup_target(labels, 4, lam=1.0, smoothing=0.1)
    assert torch.allclose(output.loss, -(mixed(smooth, params) * output.logits.log_softmax(1)).sum(1).mean())
    model.eval()
    output = model(small_images(), labels)
    assert torch.allclose(output.loss, nn.functional.cross_entropy(output.logits, labels))


def test_transport_is_kept_for_logging(small: nn.Module) -> None:
    model = AlignMixModel(small, feature_module="layer3", epsilon=0.1).train()
    model(small_images(), LABELS, mix=draw(4, 0, 0, modes=("feat",)))
    transport = model.hooks.transport
    assert transport is not None
    assert transport.assignment.shape == (4, 16, 16)
    assert transport.marginal_error.shape == (4,)


def test_options_reach_the_operator(small: nn.Module) -> None:
    model = AlignMixModel(small, feature_module="layer3", epsilon=0.3, num_iters=3, cost_scale="raw").train()
    feats = []
    small.layer3.register_forward_hook(lambda m, a, out: feats.append(out), prepend=True)
    params = draw(4, 0, 0, modes=("feat",))
    model(small_images(), LABELS, mix=params)
    tokens = feats[0].flatten(2).mT
    expected = assign(tokens, tokens[params.perm], 0.3, 3, "raw").assignment
    assert torch.allclose(model.hooks.transport.assignment, expected, atol=1e-6)


def test_unaligned_mixing_is_manifold_mixup(small: nn.Module) -> None:
    model = AlignMixModel(small, input_size=(3, 64, 64), assignment="none").train()
    seen = {}
    module = small.get_submodule(model.hooks.point.feature_module)
    module.register_forward_hook(lambda m, a, out: seen.update(before=out), prepend=True)
    module.register_forward_hook(lambda m, a, out: seen.update(after=out))
    params = draw(4, 0, 0, modes=("feat",))
    model(small_images(), LABELS, mix=params)
    assert torch.allclose(seen["after"], mixed(seen["before"], params), atol=1e-6)
    assert model.hooks.transport is None


def test_first_batch_moves_the_point_to_its_size(small: nn.Module) -> None:
    model = AlignMixModel(small).train()
    assert (model.hooks.point.feature_module, model.hooks.point.map_size) == ("layer3.0", (10, 10))
    model(torch.randn(4, 3, 32, 32), LABELS, mix=draw(4, 0, 0, modes=("feat",)))
    assert (model.hooks.point.feature_module, model.hooks.point.map_size) == ("layer2.0", (4, 4))
    assert sum(len(module._forward_hooks) for module in small.modules()) == 1


def test_bad_input_is_named(small: nn.Module) -> None:
    model = AlignMixModel(small).train()
    with pytest.raises(ValueError, match="training needs the mixing parameters of the batch"):
        model(small_images(), torch.arange(4))
    with pytest.raises(ValueError, match="mix was drawn for 6 examples, the batch has 4"):
        model(small_images(), torch.arange(4), draw(6, 0, 0))
    with pytest.raises(ValueError, match=r"labels must be class indices in \[0, 4\), got 4"):
        model(small_images(), torch.arange(1, 5), draw(4, 0, 0))
    with pytest.raises(ValueError, match=r"labels must be class indices in \[0, 4\), got -1"):
        model(small_images(), torch.arange(-1, 3), draw(4, 0, 0))
    with pytest.raises(ValueError, match=r"labels must be class indices \[B\] or targets \[B, 4\]"):
        model(small_images(), torch.rand(4, 5), draw(4, 0, 0))
    with pytest.raises(ValueError, match="epsilon must be > 0, got 0"):
        AlignMixModel(small, epsilon=0)
    with pytest.raises(ValueError, match=r"label_smoothing must be in \[0, 1\), got 1"):
        AlignMixModel(small, label_smoothing=1.0)
    with pytest.raises(ValueError, match="num_classes must be >= 1, got 0"):
        AlignMixModel(timm.create_model("test_resnet", num_classes=0))


def test_non_finite_features_are_an_error(small: nn.Module) -> None:
    model = AlignMixModel(small).train()
    unmixed_batch_norm(small)
    images = small_images()
    images[2, 0, 0, 0] = math.nan
    with pytest.raises(FloatingPointError, match=r"features at 'layer3.0' are not finite in rows .*2"):
        model(images, torch.arange(4), draw(4, 0, 0, modes=("feat",)))


@pytest.mark.parametrize("labels", [torch.tensor([0, 1, 1, 0]), torch.tensor([[0.0], [1.0], [0.7], [0.2]])])
def test_one_class_is_trained_by_binary_cross_entropy(labels: Tensor) -> None:
    torch.manual_seed(0)
    model = AlignMixModel(timm.create_model("test_resnet", num_classes=1)).train()
    params = draw(4, 0, 0, modes=("embed",))
    output = model(small_images(), labels, params)
    targets = mixed(labels.view(4, 1).float(), params)
    probability = output.logits.sigmoid()
    expected = -(targets * probability.log() + (1 - targets) * (1 - probability).log()).mean()
    assert torch.allclose(output.loss, expected)
    output.loss.backward()
    assert model.model.fc.weight.grad.norm() > 0
    evaluated = model.eval()(small_images(), labels)
    expected = nn.functional.binary_cross_entropy_with_logits(evaluated.logits, labels.view(4, 1).float())
    assert torch.equal(evaluated.loss, expected)
    with pytest.raises(ValueError, match=r"labels of a model with one class must be in \[0, 1\], got 2"):
        model(small_images(), 2 * labels.ceil())


def test_a_loss_that_cannot_train_one_class_is_refused() -> None:
    net = timm.create_model("test_resnet", num_classes=1)
    with pytest.raises(ValueError, match="criterion must not be CrossEntropyLoss where num_classes is 1"):
        AlignMixModel(net, nn.CrossEntropyLoss())
    model = AlignMixModel(net, nn.MSELoss()).train()  # a regression
    assert model(small_images(), torch.tensor([3.0, -1.0, 2.0, 5.0]), draw(4, 0, 0, modes=("input",))).loss > 0


def torchvision_resnet() -> nn.Module:
    return torchvision.models.resnet18(num_classes=4)


def transformers_vit() -> nn.Module:
    config = transformers.ViTConfig(
        image_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, num_labels=4
    )
    return transformers.ViTForImageClassification(config)


def timm_in_transformers() -> nn.Module:
    config = transformers.TimmWrapperConfig(architecture="test_resnet", num_labels=4, do_pooling=True)
    return transformers.TimmWrapperForImageClassification(config)


NOT_TIMM = [
    (torchvision_resnet, "fc", 4),
    (transformers_vit, "classifier", None),
    (timm_in_transformers, "timm_model.fc", None),
    (torchvision_resnet, ["fc"], 4),
]


@pytest.mark.parametrize(("build", "classifier", "num_classes"), NOT_TIMM)
def test_models_without_get_classifier(
    build: Callable[[], nn.Module], classifier: str | list[str], num_classes: int | None
) -> None:
    torch.manual_seed(0)
    net = build()
    with pytest.raises(ValueError, match=r"get_classifier\(\).*classifier='fc'"):
        AlignMixModel(net, num_classes=4, input_size=(3, 64, 64))
    with pytest.raises(ValueError, match=r"classifier must be the name of a module .*, got 'no'. Its parts are \["):
        AlignMixModel(net, num_classes=4, input_size=(3, 64, 64), classifier="no")
    model = AlignMixModel(net, classifier=classifier, num_classes=num_classes, input_size=(3, 64, 64)).train()
    name = classifier if isinstance(classifier, str) else classifier[0]
    embeddings: list[Tensor] = []
    handle = net.get_submodule(name).register_forward_pre_hook(lambda module, args: embeddings.append(args[0]))
    plain = model(small_images(), LABELS, draw(4, 0, 0, prob=0.0)).logits
    params = draw(4, 0, 0, modes=("embed",))
    output = model(small_images(), LABELS, params)
    handle.remove()
    assert torch.allclose(embeddings[1], mixed(embeddings[0], params), atol=1e-5)
    assert torch.allclose(output.logits, mixed(plain, params), atol=1e-5)  # the classifier is linear
    output = model(small_images(), LABELS, draw(4, 0, 0, modes=("feat",)))
    output.loss.backward()
    assert not torch.allclose(output.logits, plain, atol=1e-6)
    assert model.hooks.transport.assignment.shape[1] >= 16
    assert choose_point(model, (3, 64, 64)) == model.hooks.point
