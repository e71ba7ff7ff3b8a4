"""Where torch itself is set differently: TorchScript, another default device."""

import copy
from collections.abc import Iterator

import pytest
import timm
import torch
from torch import Tensor, nn

from alignmix_timm import AlignMix, AlignMixCollator, AlignMixModel


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("test_resnet", num_classes=4).train()


def images() -> Tensor:
    return torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated")
def test_a_hooked_network_is_scripted_after_detach(net: nn.Module) -> None:
    model = AlignMixModel(net, input_size=(3, 64, 64))
    for hooked in (model, net, net.layer3, copy.deepcopy(net)):
        with pytest.raises(RuntimeError, match=r"cannot compile the hooks of AlignMix: detach\(\) the model first"):
            torch.jit.script(hooked)
    model.detach().eval()
    assert torch.equal(torch.jit.script(net)(images()), net(images()))


@pytest.fixture
def default_device() -> Iterator[None]:
    """A default device without data: what lands there by mistake cannot be used."""
    torch.set_default_device("meta")
    yield
    torch.set_default_device(None)


@pytest.mark.parametrize("prob", [1.0, 0.0])
def test_the_default_device_is_not_that_of_the_parameters(net: nn.Module, default_device: None, prob: float) -> None:
    batch = torch.randn(4, 3, 64, 64, device="cpu"), torch.arange(4, device="cpu")
    model = AlignMixModel(net, input_size=(3, 64, 64), feature_module="layer3.0").train()  # measures the effect
    collator = AlignMixCollator(seed=0, prob=prob)
    for _ in range(4):
        assert model(**collator(list(zip(*batch, strict=True)))).loss.isfinite()
    model.detach()
    mixup_fn = AlignMix(net, prob=prob, input_size=(3, 64, 64))
    for _ in range(4):
        x, y = mixup_fn(batch[0].clone(), batch[1])
        assert {x.device.type, y.device.type, net(x).device.type} == {"cpu"}
