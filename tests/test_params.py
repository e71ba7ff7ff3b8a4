import math
from collections import Counter

import pytest
import torch
from oracles import alignmix_loop
from scipy import stats

from alignmix_timm import MODES, MixParams, alignmix, draw, mix_targets


def test_steps_and_seeds_differ() -> None:
    draws = [draw(32, seed, step, modes=("input",)) for seed in range(5) for step in range(5)]
    assert len({tuple(params.lam.tolist()) for params in draws}) == 25
    assert len({tuple(params.perm.tolist()) for params in draws}) == 25


def test_modes_are_uniform() -> None:
    counts = Counter(draw(2, 0, step).mode for step in range(4000))
    assert set(counts) == set(MODES)
    assert stats.chisquare([counts[mode] for mode in MODES]).pvalue > 1e-3


def test_weights_and_prob_set_the_shares() -> None:
    counts = Counter(draw(2, 1, s, modes=("input", "feat"), weights=(3, 1), prob=0.5).mode for s in range(4000))
    assert stats.chisquare([counts["none"], counts["input"], counts["feat"]], [2000, 1500, 500]).pvalue > 1e-3
    assert {draw(8, 0, step, prob=0.0).mode for step in range(20)} == {"none"}


def test_lam_is_beta_distributed_per_example() -> None:
    for alpha in (0.5, 2.0):
        lam = draw(5000, 0, 0, modes=("input",), alpha=alpha).lam
        assert stats.kstest(lam.numpy(), stats.beta(alpha, alpha).cdf).pvalue > 1e-3
    assert draw(64, 0, 0, modes=("input",), per_example=False).lam.unique().numel() == 1


def test_permutation_is_uniform_over_all_with_fixed_points() -> None:
    counts = Counter(tuple(draw(3, 0, step, modes=("input",)).perm.tolist()) for step in range(3000))
    assert len(counts) == 6
    assert stats.chisquare(list(counts.values())).pvalue > 1e-3


def test_a_single_example_is_not_mixed() -> None:
    params = draw(1, 0, 0)
    assert params.mode == "none"
    assert params.lam.tolist() == [1.0]
    assert params.perm.tolist() == [0]


@pytest.mark.parametrize("seed", range(3))
def test_feat_swap_equals_algorithm_1_with_swap(seed: int) -> None:
    """Lines 10, 16 and 17 as written, against the rewritten parameters: the same rows, in another order."""
    feats = torch.randn(6, 9, 5, generator=torch.Generator().manual_seed(seed))
    targets = torch.eye(6)
    plain = draw(6, seed, 0, modes=("feat",))  # the same stream, not rewritten
    swapped = draw(6, seed, 0, modes=("feat_swap",))
    literal = alignmix_loop(feats[plain.perm], feats, plain.lam, epsilon=0.5)  # x and x' exchanged
    literal_targets = plain.lam[:, None] * targets[plain.perm] + (1 - plain.lam[:, None]) * targets
    ours = alignmix(feats, feats[swapped.perm], swapped.lam, epsilon=0.5, num_iters=1000)
    ours_targets = mix_targets(targets, swapped.perm, swapped.lam)
    # row i of the literal algorithm keeps the positions of example perm[i], which is our row perm[i]
    assert torch.allclose(ours[plain.perm].double(), literal, atol=1e-4)
    assert torch.allclose(ours_targets[plain.perm], literal_targets)


def test_an_unknown_mode_is_named() -> None:
    with pytest.raises(ValueError, match=r"mode must be one of .* got 'feats'"):
        MixParams("feats", torch.ones(3), torch.arange(3))


def test_params_move_and_compare() -> None:
    params = draw(4, 0, 0).to("meta")
    assert params.lam.device.type == params.perm.device.type == "meta"
    assert len(MixParams("none", torch.ones(3), torch.arange(3))) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 0.0}, "alpha must be > 0, got 0.0"),
        ({"alpha": -1.0}, "alpha must be > 0, got -1.0"),
        ({"alpha": math.inf}, "alpha must be finite, got inf"),
        ({"weights": (1, 1, 1, math.inf)}, "weights must be one number >= 0"),
        ({"prob": 1.5}, r"prob must be in \[0, 1\], got 1.5"),
        ({"modes": ("input", "pixels")}, r"modes must be chosen from .* got \('input', 'pixels'\)"),
        ({"modes": ()}, "modes must be chosen from"),
        ({"weights": (1, 2)}, "weights must be one number >= 0 for each"),
        ({"weights": (0, 0, 0, 0)}, "weights must be one number >= 0 for each"),
        ({"weights": (1, 1, 1, -1)}, "weights must be one number >= 0 for each"),
    ],
)
def test_bad_options_are_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw(4, 0, 0, **options)


@pytest.mark.parametrize(("name", "args"), [("batch_size", (0, 0, 0)), ("seed", (4, -1, 0)), ("step", (4, 0, -1))])
def test_bad_keys_are_named(name: str, args: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=f"{name} must be >= "):
        draw(*args)
