"""Two small networks in the wrapper, and a training step."""

from typing import Any

import timm
import torch
from torch import Tensor, nn

from alignmix_timm import AlignMixModel, draw

LABELS = torch.arange(4)
# test_vit has parameters of its own, beside its submodules; test_resnet has buffers.
NETWORKS = ("test_vit", "test_resnet")
IMAGES = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))


class WeightedLoss(nn.Module):
    """A loss with a parameter and a buffer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))
        self.register_buffer("weight", torch.arange(1.0, 5.0))

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits * self.scale, targets, self.weight)


def network(name: str, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return timm.create_model(name, num_classes=4, **({"img_size": 64} if "vit" in name else {}))


def wrapper(name: str, seed: int = 0, criterion: nn.Module | None = None) -> AlignMixModel:
    return AlignMixModel(network(name, seed), criterion, input_size=(3, 64, 64)).train()


def step(model: nn.Module, optimizer: torch.optim.Optimizer, number: int = 0) -> Tensor:
    loss = model(IMAGES, LABELS, draw(4, 0, number, modes=("feat", "embed"))).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.detach()
