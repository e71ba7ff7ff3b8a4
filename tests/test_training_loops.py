"""What training loops do to a model: each must give what the plain run gives."""

import pytest
import timm
import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from alignmix_timm import AlignMix, AlignMixModel, draw

MODES = ("none", "input", "embed", "feat")
NETWORKS = (
    ("test_resnet", 64),
    ("test_vit", 64),
    ("test_convnext", 64),
    ("test_efficientnet", 64),
    pytest.param("swin_tiny_patch4_window7_224", 224, marks=pytest.mark.slow),
)


def build(name: str, size: int) -> AlignMixModel:
    torch.manual_seed(0)
    options = {"img_size": size} if "vit" in name or "swin" in name else {}
    net = timm.create_model(name, num_classes=4, drop_path_rate=0.0, **options)
    return AlignMixModel(net, input_size=(3, size, size)).train()


def images(size: int, batch: int = 4) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


def step(model: AlignMixModel, batch: Tensor, mode: str, scale: float = 1.0) -> tuple[Tensor, list[Tensor]]:
    loss = model(batch, torch.arange(len(batch)), draw(len(batch), 0, 0, modes=(mode,))).loss
    (loss * scale).backward()
    return loss.detach(), [parameter.grad.clone() for parameter in model.parameters()]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("name", "size"), NETWORKS)
def test_timms_activation_checkpointing_changes_no_bit(name: str, size: int, mode: str) -> None:
    plain, checkpointed = build(name, size), build(name, size)
    checkpointed.model.set_grad_checkpointing(True)
    loss, gradients = step(plain, images(size), mode)
    found, found_gradients = step(checkpointed, images(size), mode)
    assert torch.equal(found, loss)
    assert all(torch.equal(one, other) for one, other in zip(found_gradients, gradients, strict=True))


@pytest.mark.parametrize("mode", MODES)
def test_channels_last_gives_the_same_loss(mode: str) -> None:
    plain, last = build("test_resnet", 64), build("test_resnet", 64).to(memory_format=torch.channels_last)
    loss, _ = step(plain, images(64), mode)
    found, _ = step(last, images(64).to(memory_format=torch.channels_last), mode)
    assert torch.allclose(found, loss, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_gives_nearly_the_same_loss(mode: str, dtype: torch.dtype) -> None:
    plain, half = build("test_vit", 64), build("test_vit", 64)
    loss, _ = step(plain, images(64), mode)
    with torch.autocast("cpu", dtype):
        found, gradients = step(half, images(64), mode)
    assert torch.allclose(found.float(), loss, rtol=2e-2)
    assert all(gradient.isfinite().all() and gradient.dtype == torch.float32 for gradient in gradients)


def test_ema_evaluates_its_own_weights_and_never_mixes() -> None:
    torch.manual_seed(0)
    net = timm.create_model("test_resnet", num_classes=4).train()
    mixup_fn = AlignMix(net, modes=("feat",), input_size=(3, 64, 64))
    ema = ModelEmaV3(net, decay=0.5)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    expected = {name: value.clone() for name, value in net.state_dict().items()}
    for _ in range(3):
        x, y = mixup_fn(images(64), torch.arange(4))
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
        ema.update(net)
        for name, value in net.state_dict().items():
            mean = value.is_floating_point()
            expected[name] = expected[name].lerp(value, 0.5) if mean else (expected[name] * 0.5 + value * 0.5).long()
    plain = timm.create_model("test_resnet", num_classes=4)
    plain.load_state_dict(ema.module.state_dict())
    for name, value in plain.state_dict().items():
        if value.is_floating_point():
            assert torch.allclose(value, expected[name], atol=1e-5), name
    assert torch.equal(ema(images(64)), plain.eval()(images(64)))
    assert not torch.equal(ema(images(64)), net.eval()(images(64)))
    assert torch.equal(ema.module.train()(images(64)), plain.train()(images(64)))


def test_sync_batch_norm_conversion_keeps_the_hooks() -> None:
    model = build("test_resnet", 64)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert any(isinstance(module, nn.SyncBatchNorm) for module in converted.modules())
    hooked = converted.model.get_submodule(model.hooks.point.feature_module)
    assert hooked._forward_hooks
    model.detach()
    assert not hooked._forward_hooks
