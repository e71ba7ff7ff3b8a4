"""The network compiled: at most one graph for each action, no graph break, the gradients of the plain run."""

from collections import Counter

import pytest
import timm
import torch
from torch import Tensor, nn

from alignmix_timm import AlignMixModel, MixParams, draw

FAMILIES = (
    ("test_resnet", 64),
    ("test_vit", 64),
    ("test_convnext", 64),
    ("test_efficientnet", 64),
    ("test_nfnet", 64),
    ("test_mambaout", 64),
    ("regnety_002", 64),
    ("levit_128s", 224),
)


def build(name: str, size: int) -> AlignMixModel:
    torch.manual_seed(0)
    options = {"img_size": size} if name == "test_vit" else {}
    net = timm.create_model(name, num_classes=4, **options)
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return AlignMixModel(net, input_size=(3, size, size)).train()


def steps(size: int) -> list[tuple[Tensor, MixParams]]:
    """All modes, twice, then a short last batch and an odd one."""
    generator = torch.Generator().manual_seed(1)
    modes = [mode for mode in ("none", "input", "embed", "feat", "feat_swap") for _ in range(2)]
    batches = [(8, mode) for mode in modes] + [(5, "feat"), (3, "embed"), (7, "none"), (8, "feat")]
    return [
        (torch.randn(count, 3, size, size, generator=generator), draw(count, 0, step, modes=(mode,)))
        for step, (count, mode) in enumerate(batches)
    ]


class Counting:
    """A backend that counts graphs and runs them as autograd does."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Tensor]) -> torch.fx.GraphModule:
        self.graphs += 1
        return graph


@pytest.mark.parametrize(("name", "size"), FAMILIES)
def test_one_graph_for_each_action(name: str, size: int) -> None:
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    model, backend = build(name, size), Counting()
    model.model.compile(backend=backend, dynamic=True, fullgraph=True)
    seen: Counter[str] = Counter()
    for images, params in steps(size):
        before = backend.graphs
        output = model(images, torch.zeros(len(images)).long(), params)
        output.loss.backward()
        seen[model.hooks.action] += backend.graphs - before
    model.eval()
    before = backend.graphs
    model(images)
    assert max(seen.values()) <= 1, seen
    assert backend.graphs - before <= 1
    assert not torch._dynamo.utils.counters["graph_break"]
