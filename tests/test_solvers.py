"""The rivals of the operator's benchmark solve the problem that they are timed on."""

import importlib
from types import ModuleType

import ot
import pytest
import torch
from launcher import ROOT
from torch import Tensor

pytestmark = pytest.mark.slow  # for the imports

NAMES = [
    "POT batch, log_sinkhorn",
    "POT batch, sinkhorn",
    "geomloss, tensorized",
    "log-domain loop",
    "broadcast cost",
]


@pytest.fixture
def solvers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "recipes")
    return importlib.import_module("solvers")


@pytest.fixture
def tokens() -> tuple[Tensor, Tensor]:
    """Of two maps whose means and norms differ: what a scale by the mean cost would see, and ours must not."""
    x, y = torch.randn(2, 3, 9, 6, generator=torch.Generator().manual_seed(0))
    return 2 * x + 0.5, y - 0.5


def test_every_rival_is_known_here(solvers: ModuleType) -> None:
    assert list(solvers.RIVALS) == ["former default", *NAMES]


@pytest.mark.parametrize("name", NAMES)
def test_rivals_find_our_plan(name: str, solvers: ModuleType, tokens: tuple[Tensor, Tensor]) -> None:
    scale = solvers.scale_of(*tokens)
    expected = solvers.ours(*tokens, scale, 200)
    found = solvers.RIVALS[name](*tokens, scale, 400)
    torch.testing.assert_close(found.sum(2), torch.ones(3, 9), atol=1e-2, rtol=0)
    atol = 2e-2 if "geomloss" in name else 1e-4  # whose error falls as 1 / iterations
    torch.testing.assert_close(found, expected, atol=atol, rtol=0)
    assert expected.max() > 0.5  # far from uniform


def test_the_former_default_divides_by_the_mean(solvers: ModuleType, tokens: tuple[Tensor, Tensor]) -> None:
    x, y = tokens
    found = solvers.RIVALS["former default"](x, y, solvers.scale_of(x, y), 400)
    for pair in range(len(x)):
        cost = torch.cdist(x[pair].double(), y[pair].double()).square()
        plan = ot.sinkhorn([], [], cost / cost.mean(), 0.02, method="sinkhorn_log", numItermax=20_000, stopThr=1e-12)
        torch.testing.assert_close(found[pair].double(), 9 * plan, atol=1e-3, rtol=0)
