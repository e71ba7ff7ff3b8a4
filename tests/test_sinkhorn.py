import math

import numpy as np
import ot
import pytest
import torch
from oracles import clustered_tokens, scale_of, sinkhorn_loop
from scipy.optimize import linear_sum_assignment
from torch._subclasses.fake_tensor import FakeTensorMode

from alignmix_timm import align, assign
from alignmix_timm.sinkhorn import EPSILON, NUM_ITERS, centred_cost, solve


def pair(batch: int = 3, tokens: int = 16, dim: int = 24, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    return clustered_tokens(batch, tokens, dim, seed), clustered_tokens(batch, tokens, dim, seed + 1)


# Square problems of the default epsilon take the plain iterations of the oracle beyond 200,000.
@pytest.mark.parametrize(
    ("num_tokens", "epsilon"),
    [
        *(((16, 16), epsilon) for epsilon in (0.1, 0.2, 1.0)),
        *(((9, 16), epsilon) for epsilon in (EPSILON, 0.2, 1.0)),
        *(((16, 9), epsilon) for epsilon in (EPSILON, 0.2, 1.0)),
    ],
)
def test_agrees_with_the_paper_in_float64(num_tokens: tuple[int, int], epsilon: float) -> None:
    x, y = clustered_tokens(3, num_tokens[0], 24, 0), clustered_tokens(3, num_tokens[1], 24, 1)
    found = assign(x, y, epsilon, num_iters=2000).assignment
    expected = np.stack([sinkhorn_loop(a, b, epsilon) for a, b in zip(x.numpy(), y.numpy(), strict=True)])
    assert np.abs(found.numpy() - expected).max() < 1e-5


def test_raw_cost_agrees_with_the_paper_in_float64() -> None:
    x, y = pair()
    x, y = x / 10, y / 10
    found = assign(x, y, epsilon=0.1, num_iters=2000, cost_scale="raw").assignment
    expected = np.stack([sinkhorn_loop(a, b, 0.1, scale_free=False) for a, b in zip(x.numpy(), y.numpy(), strict=True)])
    assert np.abs(found.numpy() - expected).max() < 1e-5


@pytest.mark.parametrize("epsilon", [0.2, 0.5])
def test_agrees_with_pot(epsilon: float) -> None:
    x, y = pair()
    found = assign(x, y, epsilon, num_iters=2000).assignment.numpy()
    for row, (a, b) in enumerate(zip(x.double().numpy(), y.double().numpy(), strict=True)):
        cost = ot.dist(a, b)
        uniform = np.full(16, 1 / 16)
        plan = ot.sinkhorn(uniform, uniform, cost / scale_of(cost), epsilon, "sinkhorn_log", 100_000, stopThr=1e-10)
        assert np.abs(found[row] - 16 * plan).max() < 1e-5


def test_approaches_the_optimal_assignment_as_epsilon_shrinks() -> None:
    x, y = pair(batch=5)
    cost = torch.cdist(x.double(), y.double()).square()
    best = torch.tensor([float(one[linear_sum_assignment(one)].sum()) for one in cost.numpy()])
    gaps = []
    for epsilon in (0.1, 0.01, 0.001):
        found = (assign(x, y, epsilon, num_iters=2000).assignment * cost).sum((1, 2))
        gaps.append(float((found / best - 1).max()))
    assert gaps[0] > gaps[1] > gaps[2] > -1e-5
    assert gaps[2] < 5e-3


def test_identical_images_are_assigned_to_themselves() -> None:
    x, _ = pair()
    assert torch.allclose(assign(x, x, epsilon=1e-3).assignment, torch.eye(16).expand(3, 16, 16), atol=1e-3)


def test_a_permuted_image_is_assigned_by_the_permutation() -> None:
    x, _ = pair()
    perm = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    result = assign(x, x[:, perm], epsilon=1e-3)
    assert torch.equal(result.assignment.argmax(2), torch.argsort(perm).expand(3, 16))
    assert torch.allclose(align(x[:, perm], result.assignment), x, atol=1e-2)


def maps(kind: str, norm: float) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.nn.functional.normalize(torch.randn(4, 49, 32, generator=generator), dim=2) * norm for _ in "xy")
    if kind == "constant":
        x = x[:, :1].expand(-1, 49, -1)
        y = x
    elif kind == "two constants":
        x, y = x[:, :1].expand(-1, 49, -1), y[:, :1].expand(-1, 49, -1)
    elif kind == "one constant":
        x = x[:, :1].expand(-1, 49, -1)
    elif kind == "zero":
        x = y = torch.zeros_like(x)
    elif kind == "close":
        x = x[:, :1] + 1e-5 * norm * torch.randn(4, 49, 32, generator=generator)
        y = x.roll(1, 1)
    return x, y


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("norm", [1e-3, 1.0, 1e4])
@pytest.mark.parametrize("cost_scale", ["rms", "raw"])
@pytest.mark.parametrize("kind", ["random", "constant", "one constant", "two constants", "zero", "close"])
def test_rows_sum_to_one_for_every_input(dtype: torch.dtype, norm: float, cost_scale: str, kind: str) -> None:
    x, y = (tokens.to(dtype) for tokens in maps(kind, norm))
    for epsilon in (1e-3, 0.02, 10.0):
        result = assign(x, y, epsilon, cost_scale=cost_scale)
        assert (result.assignment.sum(2) - 1).abs().max() < 1e-5
        assert result.f.isfinite().all()
        assert result.g.isfinite().all()
        if kind in ("constant", "one constant", "two constants", "zero") and cost_scale == "rms":
            # the rounding of the cost between two constants, below 1e-6, is divided by epsilon
            assert (result.assignment * 49 - 1).abs().max() < max(1e-6 / epsilon, 1e-5)


def test_non_finite_features_spoil_their_own_pair_only() -> None:
    x, y = pair(4)
    clean = assign(x, y).assignment
    for value in (math.nan, math.inf, -math.inf):
        bad = x.clone()
        bad[2, 5, 3] = value
        found = assign(bad, y).assignment
        assert found[2].isnan().all()
        assert torch.equal(found[[0, 1, 3]], clean[[0, 1, 3]])


def test_default_is_nearly_converged_and_plain_iterations_are_not() -> None:
    x, y = pair(32, 49, 128)
    ours = assign(x, y).marginal_error.mean()
    assert ours < 1e-2
    kernel = -scaled_cost(x.double(), y.double()) / EPSILON
    g = torch.zeros(32, 1, 49, dtype=torch.float64)
    for _ in range(NUM_ITERS):
        f = -torch.logsumexp(kernel + g, 2, keepdim=True)
        g = -torch.logsumexp(kernel + f, 1, keepdim=True)
    assert (torch.softmax(kernel + g, 2).sum(1) - 1).abs().mean() > 5 * ours


def scaled_cost(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The documented cost, divided by its root mean square."""
    cost = -2 * (x - x.mean(1, keepdim=True)) @ (y - y.mean(1, keepdim=True)).mT
    return cost / cost.square().mean((1, 2), keepdim=True).sqrt()


def test_potentials_rebuild_the_assignment_from_the_documented_cost() -> None:
    x, y = clustered_tokens(3, 9, 24, 0), clustered_tokens(3, 16, 24, 1)
    for cost_scale, epsilon in (("rms", 0.1), ("raw", 5.0)):
        result = assign(x, y, epsilon, 500, cost_scale)
        cost = scaled_cost(x, y) if cost_scale == "rms" else -2 * (x - x.mean(1, keepdim=True)) @ y.mT
        if cost_scale == "raw":
            cost = cost - cost.mean(2, keepdim=True)
        rebuilt = torch.exp((result.f[:, :, None] + result.g[:, None, :] - cost) / epsilon) / 16
        assert torch.allclose(rebuilt, result.assignment, atol=1e-4)


def test_result_is_consistent() -> None:
    result = assign(*pair(), epsilon=0.1)
    assert torch.allclose(result.marginal_error, (result.assignment.sum(1) - 1).abs().mean(1))
    entropy = -(result.assignment.double() * result.assignment.double().log()).sum(2)
    assert torch.allclose(result.effective_correspondences.double(), entropy.exp().mean(1), rtol=1e-5)


def test_effective_correspondences_of_known_assignments() -> None:
    x, _ = pair()
    assert torch.allclose(assign(x, x, 1e-3).effective_correspondences, torch.ones(3), atol=1e-2)
    assert torch.allclose(assign(x, x, 1e6).effective_correspondences, torch.full((3,), 16.0), atol=1e-2)


def test_is_equivariant_to_permutations_and_symmetric() -> None:
    x, y = pair()
    perm = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    base = assign(x, y, 0.2, num_iters=500).assignment
    assert torch.allclose(assign(x[:, perm], y, 0.2, num_iters=500).assignment, base[:, perm], atol=1e-5)
    assert torch.allclose(assign(x, y[:, perm], 0.2, num_iters=500).assignment, base[:, :, perm], atol=1e-5)
    assert torch.allclose(assign(y, x, 0.2, num_iters=500).assignment.mT, base, atol=1e-4)


def test_small_distances_between_large_features_survive() -> None:
    generator = torch.Generator().manual_seed(0)
    common = torch.nn.functional.normalize(torch.randn(1, 1, 64, generator=generator), dim=2) * 1e4
    x, y = (common + 0.1 * torch.randn(2, 16, 64, generator=generator) / 8 for _ in "xy")
    exact = scaled_cost(x.double(), y.double())
    cost = centred_cost(x, y)
    assert (cost / cost.square().mean((1, 2), keepdim=True).sqrt() - exact).abs().max() < 1e-5


@pytest.mark.parametrize("num_iters", [NUM_ITERS, 500])
def test_neither_means_nor_norms_of_a_map_change_its_plan(num_iters: int) -> None:
    """A constant vector added to all features of one map, and a factor of one map, change nothing."""
    x, y = ((tokens * 64).round() / 64 for tokens in pair())  # sums with the vectors below are exact
    expected = assign(x, y, num_iters=num_iters).assignment
    for seed, length in enumerate((1, 30, 1000)):
        vector = (torch.randn(2, 1, 1, 24, generator=torch.Generator().manual_seed(seed)) * length).round()
        for moved in ((x + vector[0], y), (x, y + vector[0]), (x + vector[0], y + vector[1]), (8 * x, y / 4)):
            found = assign(*moved, num_iters=num_iters).assignment
            assert (found - expected).abs().max() < 1e-5
            assert ((found - expected) / 16).abs().max() < 1e-5


def test_precision_settings_do_not_matter_and_are_restored() -> None:
    x, y = pair()
    expected = assign(x, y).assignment
    torch.set_float32_matmul_precision("medium")
    try:
        before = torch.backends.cuda.matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision
        with torch.autocast("cpu", torch.bfloat16):
            found = assign(x, y).assignment
        assert before == (torch.backends.cuda.matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision)
    finally:
        torch.set_float32_matmul_precision("highest")
    assert torch.equal(found, expected)


def test_inherited_precision_stays_inherited() -> None:
    x, y = pair()
    torch.backends.fp32_precision = "tf32"
    try:
        assign(x, y)
        torch.backends.fp32_precision = "ieee"
        assert torch.backends.cuda.matmul.fp32_precision == "ieee"
    finally:
        torch.backends.fp32_precision = "none"


def test_half_precision_input_is_solved_in_fp32() -> None:
    x, y = (tokens.half() for tokens in pair())
    assert torch.equal(assign(x, y).assignment, assign(x.float(), y.float()).assignment)


def test_has_no_gradient() -> None:
    x, y = pair()
    assert not assign(x.requires_grad_(), y).assignment.requires_grad


def test_solver_never_waits_for_the_device() -> None:
    """On fake tensors, any read of a value raises."""
    with FakeTensorMode():
        cost = torch.rand(4, 16, 16)
        scale = torch.ones(4, 1, 1)
        assert solve(cost, scale, scale, 20)[0].shape == (4, 16, 16)
        assert centred_cost(torch.rand(4, 16, 8), torch.rand(4, 16, 8)).shape == (4, 16, 16)


def test_is_a_well_formed_operator() -> None:
    torch.library.opcheck(torch.ops.alignmix_timm.assign.default, (*pair(), 0.02, 20, True))


def test_compiles_to_one_graph() -> None:
    x, y = pair()
    compiled = torch.compile(lambda a, b: assign(a, b).assignment, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(x, y), assign(x, y).assignment)


@pytest.mark.parametrize(("batch", "tokens", "dim"), [(32, 49, 512), (64, 16, 256), (4, 196, 64)])
def test_peak_memory(batch: int, tokens: int, dim: int) -> None:
    """From features to aligned features, no more than 4 B N N + 3 B N D fp32 elements beside the input."""
    x, y = (torch.randn(batch, dim, tokens).mT for _ in "xy")
    assign(x, y)
    with torch.profiler.profile(profile_memory=True) as profile:
        align(y, assign(x, y).assignment)
    events = sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    held = np.cumsum([event.nbytes() for event in events if event.name() == "[memory]"])
    assert len(held) > 10
    assert held.max() <= 4 * (4 * batch * tokens**2 + 3 * batch * tokens * dim)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epsilon": 0.0}, "epsilon must be > 0, got 0.0"),
        ({"epsilon": -1.0}, "epsilon must be > 0, got -1.0"),
        ({"epsilon": math.nan}, "epsilon must be > 0, got nan"),
        ({"epsilon": math.inf}, "epsilon must be finite, got inf"),
        ({"num_iters": 0}, "num_iters must be >= 1, got 0"),
        ({"cost_scale": "max"}, "cost_scale must be one of .*, got 'max'"),
        ({"cost_scale": "mean"}, "cost_scale 'mean' was removed: .* Use 'rms', with epsilon 0.2 by"),
    ],
)
def test_bad_options_are_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        assign(*pair(), **options)


@pytest.mark.parametrize("shapes", [((2, 4, 3, 3), (2, 4, 3, 3)), ((2, 4, 3), (3, 4, 3)), ((2, 4, 3), (2, 4, 5))])
def test_bad_shapes_are_named(shapes: tuple) -> None:
    with pytest.raises(ValueError, match=r"x and y must be tokens \[B, N, D\] and \[B, M, D\], got"):
        assign(*(torch.zeros(shape) for shape in shapes))


@pytest.mark.parametrize("shapes", [((2, 0, 3), (2, 4, 3)), ((2, 4, 3), (2, 0, 3)), ((2, 4, 0), (2, 4, 0))])
def test_no_tokens_and_no_features_are_refused_and_an_empty_batch_is_not(shapes: tuple) -> None:
    x, y = (torch.zeros(shape) for shape in shapes)
    with pytest.raises(ValueError, match=r"with N, M and D of at least 1, got \(2, \d, \d\) and \(2, \d, \d\)"):
        assign(x, y)
    assert assign(torch.zeros(0, 4, 3), torch.zeros(0, 5, 3)).assignment.shape == (0, 4, 5)
