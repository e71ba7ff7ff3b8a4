import math

import pytest
import torch
from oracles import alignmix_loop, clustered_tokens
from torch import Tensor

from alignmix_timm import align, alignmix, assign, mix, mix_targets


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    return clustered_tokens(4, 16, 12, 0), clustered_tokens(4, 16, 12, 1)


def test_alignmix_equals_algorithm_1(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    lam = torch.tensor([0.0, 0.3, 0.9, 1.0])
    found = alignmix(*pair, lam, epsilon=0.1, num_iters=1000)
    assert torch.allclose(found.double(), alignmix_loop(*pair, lam, epsilon=0.1), atol=1e-4)


def test_mix_is_lam_times_the_first() -> None:
    first, second = torch.zeros(2, 3), torch.ones(2, 3)
    assert torch.equal(mix(first, second, 0.25), torch.full((2, 3), 0.75))
    assert torch.equal(mix(first, second, torch.tensor([0.25, 1.0])), torch.tensor([[0.75] * 3, [0.0] * 3]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_mix_with_lam_one_is_the_first_to_the_bit(dtype: torch.dtype) -> None:
    first, second = (torch.randn(5, 3, 2, dtype=dtype) for _ in range(2))
    assert torch.equal(mix(first, second, torch.ones(5)), first)
    assert mix(first, second, torch.rand(5)).dtype == dtype


def test_half_precision_mixes_with_an_exact_lam() -> None:
    first, second = torch.full((1, 1), 256.0, dtype=torch.bfloat16), torch.full((1, 1), -256.0, dtype=torch.bfloat16)
    assert mix(first, second, torch.tensor([0.501])).item() == pytest.approx(0.512, abs=2e-3)  # 0 if lam were rounded


def test_aligned_tokens_are_convex_combinations(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, y = pair
    aligned = align(y, assign(x, y).assignment)
    assert (aligned <= y.max(1, keepdim=True).values + 1e-4).all()
    assert (aligned >= y.min(1, keepdim=True).values - 1e-4).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_align_keeps_the_dtype_under_autocast(pair: tuple[torch.Tensor, torch.Tensor], dtype: torch.dtype) -> None:
    x, y = pair
    assignment = assign(x, y).assignment
    with torch.autocast("cpu", torch.bfloat16):
        aligned = align(y.to(dtype), assignment)
    assert aligned.dtype == dtype
    assert torch.allclose(aligned.float(), assignment @ y, atol=1e-5 if dtype == torch.float32 else 3e-2)


def test_alignment_keeps_the_mean_when_converged(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, y = pair
    aligned = align(y, assign(x, y, num_iters=2000).assignment)
    assert torch.allclose(aligned.mean(1), y.mean(1), atol=1e-4)


def test_gradient_reaches_both_maps_and_not_the_plan(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, y = (tokens.clone().requires_grad_() for tokens in pair)
    weight = torch.randn(4, 16, 12, generator=torch.Generator().manual_seed(0))
    lam = torch.full((4,), 0.3)
    (alignmix(x, y, lam) * weight).sum().backward()
    assignment = assign(x, y).assignment
    assert torch.allclose(x.grad, 0.3 * weight, atol=1e-6)
    assert torch.allclose(y.grad, 0.7 * assignment.mT @ weight, atol=1e-5)


def test_mix_targets_follows_the_permutation() -> None:
    targets = torch.eye(3)
    mixed = mix_targets(targets, torch.tensor([1, 2, 0]), torch.tensor([0.9, 0.8, 0.7]))
    assert torch.allclose(mixed, torch.tensor([[0.9, 0.1, 0.0], [0.0, 0.8, 0.2], [0.3, 0.0, 0.7]]))


@pytest.mark.parametrize(
    "lam", [1.5, -0.1, math.nan, torch.tensor(1.01), torch.tensor([0.5, -1e-3]), torch.tensor([math.nan, 0.5])]
)
def test_shares_outside_the_unit_interval_are_named(lam: Tensor | float) -> None:
    items = torch.rand(2, 5, 3)
    for call in (lambda: mix(items, items, lam), lambda: alignmix(items, items, lam)):
        with pytest.raises(ValueError, match=r"lam must be in \[0, 1\], got "):
            call()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
def test_what_is_mixed_must_be_floating(dtype: torch.dtype) -> None:
    images = torch.ones(2, 3, 8, 8, dtype=dtype)
    for pair, name in (((images, images), "first"), ((images.float(), images), "second")):
        with pytest.raises(ValueError, match=f"{name} must be floating, got {dtype}. Convert and normalise images"):
            mix(*pair, 0.5)


def test_bad_shapes_are_named() -> None:
    with pytest.raises(ValueError, match="first and second must have one shape"):
        mix(torch.zeros(2, 3), torch.zeros(2, 4), 0.5)
    with pytest.raises(ValueError, match=r"lam must be a scalar or \[B\] = \[2\], got shape \(3,\)"):
        mix(torch.zeros(2, 3), torch.zeros(2, 3), torch.rand(3))
    with pytest.raises(ValueError, match=r"assignment must be \[B, N, M\]"):
        align(torch.zeros(2, 4, 3), torch.zeros(2, 4, 5))
