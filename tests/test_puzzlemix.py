"""PuzzleMix, part by part against literal loops and exact solvers; then what holds of every mixed batch."""

import copy
import itertools
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import timm
import torch
import torch.nn.functional as F
from accelerate.state import AcceleratorState
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from training import command, digest, finish, kill_when, reached, records, save_rows

from alignmix_timm import AlignMixModel, MixParams
from alignmix_timm.mixers import NoMixing, PuzzleMix, make_mixer
from alignmix_timm.mixers.block_energy import block_shares, energy_terms, seams
from alignmix_timm.mixers.block_transport import assign_blocks, move_blocks, transport_cost
from alignmix_timm.params import Place
from alignmix_timm.training.main import main

STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
BETA, GAMMA, ETA = 1.2, 0.5, 0.2


def pixels(*shape: int, seed: int = 0) -> Tensor:
    """Normalised images of pixels in [0, 1]."""
    return (torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) - 0.45) / STD


class Salient:
    """Stands for a network whose saliency is known."""

    def __init__(self, saliency: Tensor) -> None:
        self.map = saliency

    def arm(self, params: MixParams, image_size: tuple[int, int, int]) -> None:
        raise AssertionError("PuzzleMix arms nothing")

    def saliency(self, images: Tensor, targets: Tensor) -> Tensor:
        return self.map


def maps(*shape: int, seed: int = 1) -> Tensor:
    """Saliency of few places, as that of networks."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) ** 40


def parameters(lam: Tensor | list[float], n: int) -> MixParams:
    """Each with the one before it."""
    lam = torch.as_tensor(lam)
    blocks = {"blocks": torch.full((len(lam),), n)}
    return MixParams("input", lam, torch.arange(len(lam)).roll(1), mixer="puzzlemix", extra=blocks)


def mixed(mixer: PuzzleMix, images: Tensor, saliency: Tensor, params: MixParams) -> tuple[Tensor, Tensor]:
    """The images, and the share that each keeps of itself."""
    result = mixer.mix(images, torch.eye(len(images)), params, Salient(saliency))
    assert torch.allclose(result.targets.sum(1), torch.ones(len(images)))
    return result.images, result.targets.diagonal()


def block(image: Tensor, n: int, row: int, column: int) -> Tensor:
    height, width = image.shape[-2] // n, image.shape[-1] // n
    return image[..., row * height : (row + 1) * height, column * width : (column + 1) * width]


def borders(n: int) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    down = [((row, column), (row + 1, column)) for row in range(n - 1) for column in range(n)]
    return down + [((column, row), (column, row + 1)) for (row, column), _ in down]


def gap(first: Tensor, second: Tensor, n: int, here: tuple[int, int], there: tuple[int, int], size: int) -> float:
    """Of pixels on both sides of a border, each the mean of a square of this size."""
    above, below = block(first, n, *here), block(second, n, *there)
    if here[0] == there[0]:
        above, below = above.mT, below.mT
    above, below = above[:, -size:], below[:, :size]
    squares = range(0, above.shape[2], size)
    gaps = [(above[:, :, at : at + size] - below[:, :, at : at + size]).mean((1, 2)).abs().mean() for at in squares]
    return float(sum(gaps) / len(gaps))


def literal_energy(both: list[Tensor], saliency: list[Tensor], labels: Tensor, lam: float, size: int) -> float:
    """In float64: of images in [0, 1], with the terms of pixels as they are given for labels 0 and 2.

    Shares between them are costed by the quadratic form that agrees there.
    """
    n, z = len(labels), labels.double() / 2
    total = 0.0
    for row, column in itertools.product(range(n), range(n)):
        hidden = [block(one, n, row, column).sum() / one.sum() for one in saliency]
        total += float(z[row, column] * hidden[1] + (1 - z[row, column]) * hidden[0])
        total -= ETA / n**2 * float(scipy.stats.binom.logpmf(int(labels[row, column]), 2, lam))
    for here, there in borders(n):
        own_own, own_other, other_own, other_other = (
            gap(above, below, n, here, there, size) for above in both for below in both
        )
        p, q = float(z[here]), float(z[there])
        pixel_terms = p * (own_own + own_other) / 2 + (1 - p) * (other_own + other_other) / 2
        pixel_terms += q * (own_own + other_own) / 2 + (1 - q) * (own_other + other_other) / 2
        pixel_terms += (own_other + other_own - own_own - other_other) / 2 * (p - q) ** 2
        if {p, q} <= {0.0, 1.0}:  # the gap of what is shown, and what no label changes
            shown = gap(both[1 - int(p)], both[1 - int(q)], n, here, there, size)
            assert pixel_terms == pytest.approx(shown + (own_other + other_own) / 2)
        total += BETA / (16 * n) * ((p - q) ** 2 + GAMMA * pixel_terms)
    return total


@pytest.mark.parametrize(("n", "size", "square"), [(2, (24, 16), 4), (3, (18, 18), 3), (4, (56, 56), 2)])
def test_the_energy_is_that_of_the_paper(n: int, size: tuple[int, int], square: int) -> None:
    images, saliency, lam = pixels(2, 3, *size).double(), maps(2, *size).double(), torch.tensor([0.3, 0.9])
    perm = torch.tensor([1, 0])
    shares, scaled = block_shares(saliency, n, n), images * STD
    assert torch.allclose(shares.sum((1, 2)), torch.ones(2).double())
    down = seams(scaled, scaled[perm], n, 4)
    right = seams(scaled.mT, scaled[perm].mT, n, 4).mT
    unary, *weights = energy_terms(shares, shares[perm], down, right, lam, BETA, GAMMA, ETA)
    generator = torch.Generator().manual_seed(2)
    for row in range(2):
        differences = []
        for _ in range(6):
            labels = torch.randint(0, 3, (n, n), generator=generator)
            found = unary[row].gather(2, labels[..., None]).sum()
            for axis, weight in enumerate(weights):
                found = found + (weight[row] * (labels.diff(dim=axis) / 2) ** 2).sum()
            both, sources = [scaled[row], scaled[1 - row]], [saliency[row], saliency[1 - row]]
            expected = literal_energy(both, sources, labels, float(lam[row]), square)
            differences.append(float(found) / (1000 * n**2) - expected)
        assert np.ptp(differences) < 1e-6  # a constant: of the prior


@pytest.mark.parametrize("transport", [False, True])
def test_masks_have_the_least_energy_of_all(transport: bool) -> None:
    """3 x 3 blocks: all 19,683 masks. Shares are halves of blocks; each place shows one image, or half of both."""
    batch, n = 6, 3
    images, saliency = pixels(batch, 3, 12, 12), maps(batch, 12, 12)
    lam = torch.linspace(0.05, 0.95, batch)
    params = parameters(lam, n)
    mixer = PuzzleMix(blocks=[n], transport=transport)
    found, shares = mixed(mixer, images, saliency, params)
    assert torch.allclose((shares * 2 * n**2).round(), shares * 2 * n**2, atol=1e-4)
    scaled, block_saliency = images * STD, block_shares(saliency, n, n)
    down = seams(scaled, scaled[params.perm], n, 4)
    right = seams(scaled.mT, scaled[params.perm].mT, n, 4).mT
    terms = energy_terms(block_saliency, block_saliency[params.perm], down, right, lam, BETA, GAMMA, ETA)
    every = torch.tensor(list(itertools.product(range(3), repeat=n * n))).view(-1, n, n)
    for row in range(batch):
        unary, *weights = (term[row].trunc() for term in terms)
        energy = unary[None].expand(len(every), -1, -1, -1).gather(3, every[..., None]).sum((1, 2, 3))
        for axis, weight in enumerate(weights):
            energy = energy + (weight * (every.diff(dim=1 + axis) / 2) ** 2).sum((1, 2))
        best = every[energy == energy.min()]
        assert any(math.isclose(float(mask.float().mean() / 2), float(shares[row]), abs_tol=1e-5) for mask in best)
        if not transport:
            shown = [F.interpolate(mask[None, None] / 2, scale_factor=4)[0] for mask in best]
            mixes = [mask * images[row] + (1 - mask) * images[params.perm[row]] for mask in shown]
            assert any(torch.allclose(found[row], mix, atol=1e-6) for mix in mixes)


@pytest.mark.parametrize("n", [2, 4, 8, 16])
def test_transport_is_near_the_best_assignment(n: int) -> None:
    """Of blocks to the places that show: never below it, above by little, and a permutation."""
    batch = 12
    salience = block_shares(maps(batch, n, n), n, n)
    visible = torch.rand(batch, n, n, generator=torch.Generator().manual_seed(3)) < 0.5
    cost = transport_cost(salience, visible, 0.8)
    source = assign_blocks(cost, n)
    assert torch.equal(source.sort(1).values, torch.arange(n * n).expand(batch, -1))
    for row in range(batch):
        places = visible[row].flatten().nonzero().flatten()
        blocks = cost[row][:, places].double()
        best = float(blocks[linear_sum_assignment(blocks)].sum())
        found = float(blocks[source[row][places], torch.arange(len(places))].sum())
        kept = float(blocks[places, torch.arange(len(places))].sum())
        assert best - 1e-6 <= found
        assert found - best <= 0.25 * (kept - best) + 1e-6, (best, found, kept)


def test_blocks_stay_where_the_whole_image_shows_and_salient_ones_come_into_view() -> None:
    salience = block_shares(maps(4, 8, 8), 8, 8)
    source = assign_blocks(transport_cost(salience, torch.ones(4, 8, 8, dtype=torch.bool), 0.8), 8)
    assert torch.equal(source, torch.arange(64).expand(4, -1))
    salience, visible = torch.full((1, 4, 4), 0.01), torch.zeros(1, 4, 4, dtype=torch.bool)
    salience[0, 1, 1], visible[0, 1, 2] = 0.85, True
    assert assign_blocks(transport_cost(salience, visible, 0.8), 4)[0, 6] == 5
    assert assign_blocks(transport_cost(salience, visible, 50.0), 4)[0, 6] == 6  # too far


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_blocks_are_moved_whole(memory_format: torch.memory_format) -> None:
    images = pixels(2, 3, 12, 20).contiguous(memory_format=memory_format)
    source = torch.stack([torch.randperm(20, generator=torch.Generator().manual_seed(row)) for row in range(2)])
    moved = move_blocks(images, source, 4, 5)
    assert moved.is_contiguous(memory_format=memory_format)
    for row, place in itertools.product(range(2), range(20)):
        here, there = (
            (slice(3 * (at // 5), 3 * (at // 5) + 3), slice(4 * (at % 5), 4 * (at % 5) + 4))
            for at in (place, int(source[row, place]))
        )
        assert torch.equal(moved[row, :, here[0], here[1]], images[row, :, there[0], there[1]])


def test_without_transport_pixels_are_of_one_of_both_at_their_place() -> None:
    """But for blocks that show half of each."""
    images, params = pixels(8, 3, 32, 32), parameters(torch.linspace(0.1, 0.9, 8), 8)
    found, shares = mixed(PuzzleMix(transport=False), images, maps(8, 32, 32), params)
    partners = images[params.perm]
    options = [(found - one).abs().amax(1) < 1e-6 for one in (images, partners, (images + partners) / 2)]
    assert torch.stack(options).any(0).all()
    assert torch.allclose(options[0].float().mean((1, 2)) + options[2].float().mean((1, 2)) / 2, shares, atol=1e-6)
    assert options[0].any()
    assert options[1].any()


@pytest.mark.parametrize("transport_size", [None, 2, 4, 7])
def test_with_transport_every_block_that_shows_is_one_of_both(transport_size: int | None) -> None:
    """And none is shown twice; smaller blocks move where their size divides, whole ones elsewhere."""
    images, params = pixels(4, 3, 32, 32), parameters([0.5] * 4, 8)
    found, _ = mixed(PuzzleMix(eta=0.0, transport_size=transport_size), images, maps(4, 32, 32), params)
    side = transport_size if transport_size == 2 else 4
    for row in range(4):
        sources = torch.cat([images[row][None], images[params.perm[row]][None]])
        known = F.unfold(sources, side, stride=side).mT.flatten(0, 1)
        shown = F.unfold(found[row][None], side, stride=side)[0].T
        distance = torch.cdist(shown, known)
        origins = distance.argmin(1)[distance.amin(1) < 1e-3].tolist()
        assert len(origins) == len(set(origins))
        assert len(origins) > len(shown) / 4


def test_lam_decides_where_the_prior_is_strong_and_equal_images_stay() -> None:
    images, saliency = pixels(4, 3, 16, 16), maps(4, 16, 16)
    for lam, mixer in ((0.999, PuzzleMix(eta=1000.0)), (1.0, PuzzleMix())):
        found, shares = mixed(mixer, images, saliency, parameters([lam] * 4, 8))
        assert torch.equal(found, images)
        assert torch.equal(shares, torch.ones(4))
    params = parameters([0.001] * 4, 8)
    found, shares = mixed(PuzzleMix(eta=1e9), images, saliency, params)
    assert torch.equal(found, images[params.perm])
    assert torch.equal(shares, torch.zeros(4))
    same = images[:1].expand(4, -1, -1, -1)
    found, _ = mixed(PuzzleMix(transport=False), same, saliency, parameters([0.4] * 4, 4))
    assert torch.allclose(found, same, atol=1e-6)


def test_what_is_salient_shows() -> None:
    """Which a wrong sign would hide."""
    saliency = torch.full((2, 16, 16), 0.01)
    saliency[0, :8], saliency[1, 8:] = 1.0, 1.0
    images = torch.stack([torch.full((3, 16, 16), float(value)) for value in (1, 2)])
    found, shares = mixed(PuzzleMix(transport=False), images, saliency, parameters([0.5, 0.5], 4))
    assert torch.equal(found[:, 0, ::15, 0], torch.tensor([[1.0, 2.0], [1.0, 2.0]]))
    assert shares.tolist() == [0.5, 0.5]


def test_images_without_saliency_are_mixed_by_their_pixels_and_lam() -> None:
    images = pixels(4, 3, 16, 16)
    _, shares = mixed(PuzzleMix(), images, torch.zeros(4, 16, 16), parameters([0.1, 0.2, 0.8, 0.9], 4))
    assert ((shares > 0.5) == torch.tensor([False, False, True, True])).all()
    net = timm.create_model("test_resnet", num_classes=1)
    model = AlignMixModel(net, mixer=PuzzleMix(), input_size=(3, 64, 64)).train()
    assert model(pixels(4, 3, 64, 64), torch.tensor([0.0, 1.0, 1.0, 0.0]), parameters([0.5] * 4, 4)).loss.isfinite()


@pytest.mark.parametrize(("name", "options"), [("test_resnet", {}), ("test_vit", {"img_size": 64, "drop_rate": 0.5})])
def test_the_pass_for_saliency_leaves_no_trace(name: str, options: dict[str, Any]) -> None:
    """Gradients, statistics of batch norm and random state at lam 1 are those of a step without mixing, bit by bit."""
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=4, **options)
    model = AlignMixModel(net, mixer=PuzzleMix(), input_size=(3, 64, 64)).train()
    plain = copy.deepcopy(model)
    images, labels = pixels(4, 3, 64, 64), torch.arange(4)
    states = []
    for one, steps in ((model, [parameters([1.0] * 4, 8)] * 2), (plain, [NoMixing().draw(4, Place(0, 0))] * 2)):
        torch.manual_seed(1)
        losses = [one(images, labels, params).loss for params in steps]  # accumulated
        sum(losses).backward()
        gradients = [parameter.grad for parameter in one.parameters()]
        states.append([*losses, *gradients, *one.state_dict().values(), torch.get_rng_state()])
    assert all(torch.equal(found, expected) for found, expected in zip(*states, strict=True))
    assert (model.hooks.saliency_passes, plain.hooks.saliency_passes) == (2, 0)


def test_numbers_of_blocks_are_drawn_uniformly_the_same_in_all_processes() -> None:
    drawn = [
        [int(PuzzleMix().draw(3, Place(0, step, micro)).extra["blocks"][0]) for micro in (0, 5)] for step in range(800)
    ]
    assert all(one == other for one, other in drawn)
    counts = Counter(one for one, _ in drawn)
    assert sorted(counts) == [2, 4, 8, 16]
    assert scipy.stats.chisquare(list(counts.values())).pvalue > 1e-3


@pytest.mark.parametrize(
    ("size", "drawn", "shares"), [((28, 28), 16, 32), ((28, 28), 2, 8), ((224, 224), 16, 512), ((8, 12), 8, 32)]
)
def test_numbers_of_blocks_that_do_not_divide_give_way_to_the_largest_that_does(
    size: tuple[int, int], drawn: int, shares: int
) -> None:
    _, found = mixed(PuzzleMix(), pixels(2, 3, *size), maps(2, *size), parameters([0.5, 0.4], drawn))
    assert torch.allclose((found * shares).round(), found * shares, atol=1e-4)


def test_batches_that_cannot_be_mixed_are_named() -> None:
    def mix(images: Tensor, saliency: Tensor | None = None, **options: Any) -> None:
        saliency = torch.ones(len(images), *images.shape[2:]) if saliency is None else saliency
        mixed(PuzzleMix(**options), images, saliency, parameters([0.5] * len(images), 4))

    with pytest.raises(ValueError, match=r"divides the sides of the images, got \[2, 4, 8, 16\] for 33 x 32 pixels"):
        mix(pixels(2, 3, 33, 32))
    with pytest.raises(ValueError, match=r"divides the sides of the images, got \[8, 16\] for 4 x 4"):
        mix(pixels(2, 3, 4, 4), blocks=(8, 16))
    with pytest.raises(ValueError, match=r"std must have one value, or one for each of 3 channels, got \[0.2, 0.3\]"):
        mix(pixels(2, 3, 8, 8), std=[0.2, 0.3])
    for saliency in (torch.nan, torch.inf):
        with pytest.raises(FloatingPointError, match="saliency of PuzzleMix is not finite"):
            mix(pixels(2, 3, 8, 8), torch.full((2, 8, 8), saliency))
    with pytest.raises(FloatingPointError, match="non-finite images"):
        mix(pixels(2, 3, 8, 8) * torch.nan)
    mix(torch.zeros(2, 1, 8, 8))
    mix(pixels(2, 3, 8, 8) * 1e9)  # far from normalised: no cost overflows


def test_a_network_without_gradients_is_told() -> None:
    class Constant(nn.Module):
        num_classes = 4

        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 4)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.body(images.detach()).mean((2, 3)))

    model = AlignMixModel(Constant(), mixer=PuzzleMix(), input_size=(3, 32, 32)).train()
    with pytest.raises(RuntimeError, match="saliency needs logits that are differentiable by the images"):
        model(pixels(4, 3, 32, 32), torch.arange(4), parameters([0.5] * 4, 4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blocks": 4}, r"puzzlemix: blocks must be a list of whole numbers in \[2, 64\], got 4"),
        ({"blocks": []}, "blocks must be a list of whole numbers"),
        ({"blocks": [1, 2]}, "blocks must be a list of whole numbers"),
        ({"blocks": [2.5]}, "blocks must be a list of whole numbers"),
        ({"beta": -1}, "beta must be >= 0 and finite, got -1"),
        ({"eta": math.nan}, "eta must be >= 0 and finite, got nan"),
        ({"transport_eps": math.inf}, "transport_eps must be >= 0 and finite, got inf"),
        ({"gamma": 1.5}, r"gamma must be in \[0, 1\], got 1.5"),
        ({"neighbours": 0}, "neighbours must be >= 1, got 0"),
        ({"transport_size": 0}, "transport_size must be >= 1, got 0"),
        ({"std": 0.5}, "std must be a list of numbers > 0, got 0.5"),
        ({"std": [0.2, 0, 0.3]}, "std must be a list of numbers > 0"),
        ({"std": []}, "std must be a list of numbers > 0"),
        ({"alpha": 0}, "puzzlemix: alpha must be > 0, got 0"),
        ({"clean_lam": 1}, "puzzlemix has no option 'clean_lam'; it has alpha, prob"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_mixer("puzzlemix", **options)


def test_the_engine_trains_with_it_and_counts_its_passes(tmp_path: Path) -> None:
    data = save_rows(tmp_path / "rows", train=96, test=20)
    AcceleratorState._reset_state(reset_partial_state=True)
    line = f"--data {data} --output {tmp_path / 'run'} --model test_resnet --img-size 32 --batch-size 16 --epochs 2 "
    line += "--micro-batch-size 8 --workers 0 --lr 0.01 --log-every 3 --mixers puzzlemix mixup --loss bce_softmax "
    main([*line.split(), "--mixer-args", "puzzlemix.blocks=[2,4]", "puzzlemix.alpha=2"])
    for record in records(tmp_path / "run", "train"):
        assert record.get("extra_passes", 0) == pytest.approx(record.get("share_puzzlemix", 0) / 100)
        assert record["loss"] < 1  # of ten classes; the cross-entropy is above 2
    assert any("share_puzzlemix" in record for record in records(tmp_path / "run", "train"))


@pytest.mark.slow
def test_killed_and_resumed_runs_end_alike(tmp_path: Path) -> None:
    """On two processes, each with two micro-batches a step."""
    data = save_rows(tmp_path / "rows", train=233, test=61)
    options = dict(mixers=["puzzlemix", "alignmix"], micro_batch_size=8)
    finish(command(data, tmp_path / "whole", 2, **options))
    kill_when(command(data, tmp_path / "killed", 2, **options), reached(tmp_path / "killed", 5))
    finish(command(data, tmp_path / "killed", 2, resume="auto", **options))
    assert digest(tmp_path / "killed") == digest(tmp_path / "whole")
    assert any("share_puzzlemix" in record for record in records(tmp_path / "whole", "train"))
