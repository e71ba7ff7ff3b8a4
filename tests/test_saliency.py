"""The extra pass of the mixers that look where an image matters: its value, and that it leaves no trace."""

import copy

import pytest
import timm
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard

from alignmix_timm import AlignMixModel, draw
from alignmix_timm.hooks.saliency import input_saliency
from alignmix_timm.mixers import CutMix
from alignmix_timm.params import Place


def wrapped(name: str = "test_resnet", **options: object) -> AlignMixModel:
    torch.manual_seed(0)
    return AlignMixModel(timm.create_model(name, num_classes=5, **options), input_size=(3, 64, 64)).train()


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(4, 3, 64, 64, generator=generator), F.one_hot(torch.arange(4), 5).float()


def test_is_the_gradient_of_the_loss_by_each_pixel() -> None:
    """Against central differences in float64."""
    model, (images, targets) = wrapped(), batch()
    found = model.hooks.saliency(images, targets)
    assert found.shape == (4, 64, 64)
    net = copy.deepcopy(model.model).double().eval()
    for image, row, column in ((0, 10, 20), (3, 40, 5)):
        slopes = []
        for channel in range(3):
            losses = []
            for step in (1e-5, -1e-5):
                moved = images.double()
                moved[image, channel, row, column] += step
                losses.append(F.cross_entropy(net(moved), targets.double(), reduction="sum"))
            slopes.append((losses[0] - losses[1]) / 2e-5)
        expected = torch.stack(slopes).square().mean().sqrt()
        assert abs(found[image, row, column] - expected) < 1e-3 * expected


def test_of_one_class_it_is_that_of_the_binary_loss() -> None:
    torch.manual_seed(0)
    net = timm.create_model("test_resnet", num_classes=1).eval()
    images, targets = batch()[0].requires_grad_(), torch.tensor([[0.0], [1.0], [0.3], [0.8]])
    F.binary_cross_entropy_with_logits(net(images), targets, reduction="sum").backward()
    found = input_saliency(net, net, images, targets)
    assert found.min() > 0
    assert torch.allclose(found, images.grad.square().mean(1).sqrt(), rtol=1e-4)


@pytest.mark.parametrize("gain", [1.0, 1000.0])
def test_in_half_precision_it_does_not_vanish_where_the_network_is_sure(gain: float) -> None:
    """The gradient of its loss is then below the least number of fp16, and its square below that of fp32."""
    model, (images, _) = wrapped(), batch()
    with torch.no_grad():
        model.model.fc.weight *= gain
        sure = F.one_hot(model.model.eval()(images).argmax(1), 5).float()
    expected = input_saliency(model, copy.deepcopy(model.model).double(), images.double(), sure.double())
    found = model.hooks.saliency(images, sure)
    assert torch.allclose(found, expected, rtol=1e-3, atol=0)
    with torch.autocast("cpu", torch.float16):
        half = model.hooks.saliency(images, sure)
    for one, other in zip(half, expected, strict=True):
        one, other = one / one.sum(), other / other.sum()
        assert (one - other).norm() < 0.1 * other.norm()


@pytest.mark.parametrize(("name", "options"), [("test_resnet", {}), ("test_vit", {"img_size": 64, "drop_rate": 0.5})])
def test_leaves_no_trace(name: str, options: dict) -> None:
    model, (images, targets) = wrapped(name, **options), batch()
    model(images, targets, draw(4, 0, 0)).loss.backward()
    before = [None if parameter.grad is None else parameter.grad.clone() for parameter in model.parameters()]
    buffers = {key: value.clone() for key, value in model.state_dict().items()}
    modes, random = [module.training for module in model.modules()], torch.get_rng_state()
    model.hooks.saliency(images, targets)
    with torch.no_grad():
        model.hooks.saliency(images, targets)
    assert all(
        after.grad is None if grad is None else torch.equal(after.grad, grad)
        for after, grad in zip(model.parameters(), before, strict=True)
    )
    assert all(torch.equal(value, buffers[key]) for key, value in model.state_dict().items())
    assert modes == [module.training for module in model.modules()]
    assert torch.equal(random, torch.get_rng_state())


def test_is_not_mixed_and_spends_no_parameters() -> None:
    """Between ``arm`` and the forward pass, where mixers ask for it."""
    model, (images, targets) = wrapped(), batch()
    expected = model.hooks.saliency(images, targets)
    model.hooks.arm(draw(4, 0, 0, modes=("feat",)), (3, 64, 64))
    assert torch.equal(model.hooks.saliency(images, targets), expected)
    assert model.hooks.pending
    model.model(images)
    model.hooks.check()


def test_a_network_without_gradients_is_told() -> None:
    class Constant(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.detach().mean((2, 3))

    trained = nn.Sequential(Constant(), nn.Linear(5, 5))
    for net in (Constant(), trained):
        with pytest.raises(RuntimeError, match="logits that are differentiable by the images, and those of "):
            input_saliency(net, net, torch.zeros(2, 5, 8, 8), torch.eye(2, 5))


def test_images_of_bytes_are_named() -> None:
    with pytest.raises(ValueError, match=r"images must be floating, got torch.uint8. Convert and normalise"):
        wrapped().hooks.saliency(batch()[0].byte(), batch()[1])


def test_a_sharded_network_is_refused() -> None:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        model = wrapped()
        fully_shard(model, mesh=dist.device_mesh.init_device_mesh("cpu", (1,)))
        with pytest.raises(RuntimeError, match=r"needs a network that is whole in each process, .* fully sharded"):
            model.hooks.saliency(*batch())
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("name", ["crossvit_tiny_240", "tnt_s_legacy_patch16_224"])
def test_images_are_mixed_in_models_without_a_mixing_point(name: str) -> None:
    net = timm.create_model(name, num_classes=5)
    size = net.pretrained_cfg["input_size"]
    with pytest.raises(ValueError, match="has no map of at least"):
        AlignMixModel(net)
    mixer = CutMix()
    model = AlignMixModel(net, mixer=mixer).train()
    assert model.hooks.point is None
    images = torch.randn(2, *size)
    output = model(images, torch.tensor([0, 1]), mixer.draw(2, Place(0, 0)))
    assert output.loss.isfinite()
