"""The losses beside the cross-entropy."""

import math

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor

from alignmix_timm import AlignMixModel, draw
from alignmix_timm.targets import SoftmaxBinaryCrossEntropy


def literal(logits: Tensor, targets: Tensor) -> float:
    """In float64, one class after the other."""
    total = 0.0
    for row, wanted in zip(logits.tolist(), targets.tolist(), strict=True):
        partition = sum(math.exp(one - max(row)) for one in row)
        for one, target in zip(row, wanted, strict=True):
            share = math.exp(one - max(row)) / partition
            total -= target * math.log(share) + (1 - target) * math.log(1 - share)
    return total / logits.numel()


@pytest.mark.parametrize(("batch", "classes"), [(1, 2), (6, 5), (8, 100)])
def test_softmax_binary_cross_entropy_is_that_of_probabilities(batch: int, classes: int) -> None:
    generator = torch.Generator().manual_seed(classes)
    logits = 3 * torch.randn(batch, classes, generator=generator)
    targets = torch.rand(batch, classes, generator=generator)
    for wanted in (targets, targets / targets.sum(1, keepdim=True), F.one_hot(targets.argmax(1), classes)):
        assert SoftmaxBinaryCrossEntropy()(logits, wanted).item() == pytest.approx(literal(logits, wanted), rel=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            found = SoftmaxBinaryCrossEntropy()(logits.bfloat16(), wanted)
        assert found.dtype == torch.float32
        assert found.item() == pytest.approx(literal(logits.bfloat16().double(), wanted), rel=1e-4)


def test_its_gradient_is_finite_and_smaller_by_the_number_of_classes() -> None:
    for scale in (0.1, 1.0, 5.0, 1000.0):
        logits = (scale * torch.randn(32, 50, generator=torch.Generator().manual_seed(0))).requires_grad_()
        targets = F.one_hot(torch.arange(32), 50).float()
        gradients = [
            torch.autograd.grad(loss(logits, targets), logits)[0]
            for loss in (SoftmaxBinaryCrossEntropy(), torch.nn.CrossEntropyLoss())
        ]
        assert gradients[0].isfinite().all()
        if scale < 10:  # where probabilities do not round to 0 and 1
            ratios = gradients[0].norm(dim=1) / gradients[1].norm(dim=1) * 50
            assert 0.9 < ratios.min() <= ratios.max() < 2.1


def test_a_softmax_of_one_class_is_refused() -> None:
    net = timm.create_model("test_resnet", num_classes=1)
    with pytest.raises(ValueError, match="criterion must not be SoftmaxBinaryCrossEntropy where num_classes is 1"):
        AlignMixModel(net, SoftmaxBinaryCrossEntropy())


def test_a_loss_without_a_gradient_is_named() -> None:
    def accuracy(logits: Tensor, targets: Tensor) -> Tensor:
        return (logits.argmax(1) == targets.argmax(1)).float().mean()

    model = AlignMixModel(timm.create_model("test_resnet", num_classes=4), accuracy, input_size=(3, 32, 32)).train()
    images, labels = torch.zeros(4, 3, 32, 32), torch.arange(4)
    with pytest.raises(ValueError, match="differentiable by the logits, and the loss of accuracy is not"):
        model(images, labels, draw(4, 0, 0))
    with torch.no_grad():
        assert model(images, labels, draw(4, 0, 0)).loss.isfinite()
    assert model.eval()(images).logits.requires_grad
