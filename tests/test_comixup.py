"""Co-Mixup: its search against literal loops and all labellings, its images against their cells."""

import itertools
import math
import time

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor

from alignmix_timm import AlignMixModel, MixParams
from alignmix_timm.mixers import CoMixup, Mixed
from alignmix_timm.mixers.comixup import compatibility, compose, saliency_shares
from alignmix_timm.mixers.coordinate_descent import PAIR_BONUS, Problem, _kick, assign_cells
from alignmix_timm.params import Place


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def random_problem(
    problems: int = 4, inputs: int = 8, side: int = 4, beta: float = 0.32, gamma: float = 1.0, tau: float = 0.83
) -> tuple[Problem, Tensor]:
    """Costs as of real saliency, which a few cells hold; and a start."""
    rng = np.random.default_rng(inputs * side)
    saliency = rng.gamma(0.8, size=(problems, side * side, inputs))
    cost = -saliency / saliency.sum(1, keepdims=True) - 0.003 * np.log(rng.dirichlet([2.0] * inputs, (problems, 1)))
    distance = rng.integers(0, 9, (problems, inputs, inputs))
    distance = distance + distance.transpose(0, 2, 1)
    alike = 0.95 * np.eye(inputs) + 0.05 * distance * inputs / distance.sum((1, 2), keepdims=True)
    start = torch.from_numpy(rng.integers(0, inputs, (problems, inputs, side * side)))
    return Problem(torch.from_numpy(cost).float(), torch.from_numpy(alike).float(), beta, gamma, tau), start


def label(cell: np.ndarray) -> tuple[int, ...]:
    """The input of a cell, or its two."""
    shown = tuple(np.flatnonzero(cell).tolist())
    assert cell[list(shown)].tolist() in ([1.0], [0.5, 0.5])
    return shown


def objective(problem: Problem, index: int, shown: Tensor) -> float:
    """The objective of one problem, term by term."""
    cost, alike = problem.cost[index].double().numpy(), problem.compatibility[index].double().numpy()
    looks = shown[index].double().numpy()
    outputs, cells, inputs = looks.shape
    side = math.isqrt(cells)
    total = 0.0
    for output in looks:
        for number, cell in enumerate(output):
            total += sum(cell[one] * cost[number, one] for one in range(inputs)) - PAIR_BONUS * (len(label(cell)) == 2)
            beside = [number + 1] if (number + 1) % side else []
            for other in beside + ([number + side] if number + side < cells else []):
                here, there = sorted((label(cell), label(output[other])), key=len)
                contained = len(here) < len(there) and here[0] in there
                total += problem.beta / cells * (0 if here == there else 0.25 if contained else 1)
    counts = looks.sum(1)
    for one, other in itertools.permutations(range(outputs), 2):
        total += problem.gamma / cells * counts[one] @ alike @ counts[other]
    return total


@pytest.mark.parametrize("inputs", [2, 3, 8])
@pytest.mark.parametrize("tau", [0.0, 0.83])
def test_the_objective_never_rises(inputs: int, tau: float) -> None:
    problem, start = random_problem(inputs=inputs, tau=tau)
    shown = [assign_cells(problem, start, sweeps, resolve=False) for sweeps in range(6)]
    for index in range(4):
        found = [objective(problem, index, after) for after in shown]
        assert all(after <= before + 1e-5 for before, after in itertools.pairwise(found))
        assert found[4] < found[0]
        assert inputs < 8 or not tau or found[4] < found[2] < found[1]


def all_labellings(problem: Problem, index: int) -> np.ndarray:
    """Every labelling of 2 x 2 cells by one input each, and its cost without over-use."""
    labels = np.array(list(itertools.product(range(problem.cost.shape[2]), repeat=4)))
    unary = problem.cost[index].double().numpy()[np.arange(4), labels].sum(1)
    edges = sum(labels[:, one] != labels[:, other] for one, other in ((0, 1), (2, 3), (0, 2), (1, 3)))
    return labels, unary + problem.beta / 4 * edges


@pytest.mark.parametrize(("beta", "missed"), [(0.0, 0.0), (0.1, 0.0), (0.32, 0.1), (1.0, 0.1)])
def test_without_over_use_outputs_are_the_best_of_all_labellings(beta: float, missed: float) -> None:
    """Where neighbours weigh more than saliency, local search misses a few, as the swaps of a graph cut do."""
    problem, start = random_problem(64, 3, 2, beta=beta, gamma=0.0)
    shown = assign_cells(problem, start, sweeps=1)
    assert torch.equal(shown, shown[:, :1].expand_as(shown))
    gaps = np.array(
        [objective(problem, index, shown) / 3 - all_labellings(problem, index)[1].min() for index in range(64)]
    )
    assert gaps.min() > -1e-6
    assert (gaps > 1e-6).mean() <= missed
    assert gaps.max() < 0.2


def test_tiny_problems_come_close_to_the_best_of_all_outputs() -> None:
    """All 81 labellings of each of 3 outputs, by one input a cell. After the first sweep, two in a cell are better."""
    problem, start = random_problem(16, 3, 2, gamma=0.1, tau=0.0)
    first, last = (assign_cells(problem, start, sweeps, resolve=False) for sweeps in (1, 6))
    gaps = []
    for index in range(16):
        labels, energies = all_labellings(problem, index)
        counts = np.stack([(labels == one).sum(1) for one in range(3)], 1)
        shared = 2 * problem.gamma / 4 * counts @ problem.compatibility[index].double().numpy() @ counts.T
        two = energies[:, None] + energies + shared
        best = min((two + energies[third] + shared[third] + shared[third][:, None]).min() for third in range(81))
        gaps.append([objective(problem, index, shown) - best for shown in (first, last)])
    after_one, after_six = np.array(gaps).T
    print(f"\nabove the best of all: {after_one.round(3)}, at last {after_six.round(3)}")
    assert after_one.min() > -1e-6
    assert np.median(after_one) < 0.1
    assert after_six.max() < 0.05


def test_without_weights_each_cell_shows_the_most_salient() -> None:
    problem, start = random_problem(beta=0.0, gamma=0.0)
    best = F.one_hot(problem.cost.argmin(2), 8).float()
    assert torch.equal(assign_cells(problem, start, sweeps=1), best.unsqueeze(1).expand(-1, 8, -1, -1))
    later = assign_cells(problem, start)
    close = problem.cost.sort(2).values.diff(dim=2)[..., 0] < 2 * PAIR_BONUS  # where the mean of two costs less
    assert ((later == best.unsqueeze(1)).all(3) | close.unsqueeze(1)).all()


def test_problems_do_not_touch_one_another() -> None:
    problem, start = random_problem()
    together = assign_cells(problem, start)
    for index in range(4):
        one = problem._replace(
            cost=problem.cost[index : index + 1], compatibility=problem.compatibility[index : index + 1]
        )
        assert torch.equal(assign_cells(one, start[index : index + 1])[0], together[index])


def test_outputs_that_show_the_same_pay_for_different_inputs() -> None:
    """As in the released code: the earlier of two for the first input of the set, the later for the second."""
    shows = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1], [0, 0, 1], [0, 1, 1]]).bool()
    expected = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]]).bool()
    assert torch.equal(_kick(shows[None])[0], expected)
    alike = Problem(torch.zeros(1, 4, 3), torch.eye(3)[None], 0.0, 1.0, 0.0)
    start = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 2, 2]])[None]
    assert len(assign_cells(alike, start).sum(2)[0].unique(dim=0)) == 3


class Salient:
    """Stands for a network to which images matter as given."""

    def __init__(self, saliency: Tensor) -> None:
        self.map = saliency

    def saliency(self, images: Tensor, targets: Tensor) -> Tensor:
        return self.map


def mixed(mixer: CoMixup, images: Tensor, targets: Tensor, saliency: Tensor, params: MixParams | None = None) -> Mixed:
    drawn = params or mixer.draw(len(images), Place(0, 0))
    return mixer.mix(images, targets, drawn, Salient(saliency))


def coded(batch: int, height: int, width: int) -> Tensor:
    """Images whose every pixel tells its image and place, so that a mean of two is told from all others."""
    numbers = torch.from_numpy(np.random.default_rng(0).permutation(batch * height * width)).double()
    return (numbers.view(batch, 1, height, width) / (batch * height * width)) ** 2


def shares_of(image: Tensor, images: Tensor) -> Tensor:
    """Share of each image in every pixel of a mixed one, [B, H, W], found from the pixels alone."""
    shares = (image == images).all(1).double()
    for one, other in itertools.combinations(range(len(images)), 2):
        half = ((images[one] + images[other]) / 2 == image).all(0).double() / 2
        shares[[one, other]] += half
    return shares


@pytest.mark.parametrize(
    ("batch", "size", "blocks"), [(20, (32, 32), 4), (7, (24, 40), 4), (23, (33, 17), 4), (5, (9, 8), 3)]
)
def test_images_are_cells_of_images_and_targets_their_shares(batch: int, size: tuple[int, int], blocks: int) -> None:
    images, targets = coded(batch, *size), torch.rand(batch, 6, generator=torch.Generator().manual_seed(0))
    targets = targets / targets.sum(1, keepdim=True)
    saliency = torch.from_numpy(np.random.default_rng(1).gamma(0.5, size=(batch, *size))).float()
    mixer = CoMixup(blocks=blocks)
    params = mixer.draw(batch, Place(0, 0))
    found = mixed(mixer, images, targets, saliency, params)
    part = params.extra["rank"] // 20
    row, column = (torch.arange(side) * blocks // side for side in size)
    for number, image in enumerate(found.images):
        shares = shares_of(image, images)
        assert torch.equal(shares.sum(0), torch.ones(size).double())
        assert not shares[part != part[number]].any()
        for cell in itertools.product(range(blocks), repeat=2):
            within = shares[:, row == cell[0]][:, :, column == cell[1]].flatten(1)
            assert (within == within[:, :1]).all()
        assert torch.allclose(found.targets[number], shares.mean((1, 2)).float() @ targets, atol=1e-6)
    assert torch.allclose(found.targets.sum(1), torch.ones(batch))
    assert (found.images != images).flatten(1).any(1).sum() >= batch // 20 * 19  # nearly all are mixed


def test_a_last_part_of_one_stays_and_a_batch_of_two_is_mixed() -> None:
    images, targets, saliency = coded(21, 8, 8), torch.eye(21), torch.rand(21, 8, 8)
    params = CoMixup().draw(21, Place(0, 0))
    found = mixed(CoMixup(), images, targets, saliency, params)
    alone = params.extra["rank"] == 20
    assert torch.equal(found.images[alone], images[alone])
    assert torch.equal(found.targets[alone], targets[alone])
    for step in range(5):
        params = CoMixup().draw(2, Place(0, step))
        found = mixed(CoMixup(), images[:2], targets[:2], saliency[:2], params)
        assert torch.equal(found.targets.sum(1), torch.ones(2))


def test_what_it_makes_follows_the_images_to_other_places_of_the_batch() -> None:
    """Also across parts: who is mixed with whom, and in which order, is drawn with each image."""
    batch = 45
    images, targets, saliency = coded(batch, 8, 8), torch.eye(batch), torch.rand(batch, 8, 8)
    params, order = CoMixup().draw(batch, Place(0, 0)), torch.randperm(batch)
    extra = {name: value[order] for name, value in params.extra.items()}
    moved = MixParams(params.mode, params.lam, params.perm, params.mixer, extra=extra)
    expected = mixed(CoMixup(), images, targets, saliency, params)
    found = mixed(CoMixup(), images[order], targets[order], saliency[order], moved)
    assert torch.equal(found.images, expected.images[order])
    assert torch.equal(found.targets, expected.targets[order])


@pytest.mark.parametrize("saliency", [torch.zeros(6, 16, 16), torch.ones(6, 16, 16)], ids=["none", "the same"])
def test_flat_saliency(saliency: Tensor) -> None:
    assert torch.equal(saliency_shares(saliency, 4), torch.full((6, 16), 1 / 16))
    assert torch.equal(compatibility(saliency[None], 0.5), 0.5 * torch.eye(6)[None])
    found = mixed(CoMixup(), coded(6, 16, 16), torch.eye(6), saliency)
    assert torch.equal(found.targets.sum(1), torch.ones(6))


def test_compatibility_is_the_distance_of_what_is_most_salient() -> None:
    saliency = torch.zeros(1, 3, 20, 30)
    for number, (row, column) in enumerate(((2, 3), (2, 13), (11, 3))):
        saliency[0, number, row : row + 8, column : column + 8] = 1
    steps = torch.tensor([[0, 10, 9], [10, 0, 19], [9, 19, 0]])
    expected = 0.9 * torch.eye(3) + 0.1 * steps * 3 / steps.sum()
    assert torch.allclose(compatibility(saliency, 0.1)[0], expected)
    small = compatibility(torch.rand(2, 3, 4, 5), 0.1)  # smaller than the window: it has one place
    assert torch.allclose(small, 0.9 * torch.eye(3).expand(2, -1, -1))


def test_the_prior_is_dirichlet_in_each_part() -> None:
    drawn = [CoMixup(alpha=2.0).draw(27, Place(0, step)) for step in range(300)]
    first = [params.extra["prior"][params.extra["rank"] < 20] for params in drawn]
    assert torch.allclose(torch.stack(first).sum(1), torch.ones(300))
    assert torch.stack(first).var() == pytest.approx(1 / 20 * 19 / 20 / 41, rel=0.1)
    last = torch.stack([params.extra["prior"][params.extra["rank"] >= 20] for params in drawn])
    assert torch.allclose(last.sum(1), torch.ones(300))


def test_gradients_reach_the_images_and_memory_formats_stay() -> None:
    images = coded(5, 16, 16).float().expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
    sources = torch.randint(0, 5, (5, 4, 4, 2))
    assert compose(images, sources).is_contiguous(memory_format=torch.channels_last)
    images.requires_grad_()
    compose(images, sources).sum().backward()
    assert images.grad.sum().item() == pytest.approx(images.numel())


def test_under_autocast_nothing_is_rounded() -> None:
    images, targets, saliency = coded(20, 8, 8).float(), torch.rand(20, 5), torch.rand(20, 8, 8)
    expected = mixed(CoMixup(), images, targets, saliency)
    with torch.autocast("cpu", torch.bfloat16):
        found = mixed(CoMixup(), images, targets, saliency)
    assert torch.equal(found.images, expected.images)
    assert torch.equal(found.targets, expected.targets)


def test_training_statistics_and_random_states_are_those_of_the_step_alone() -> None:
    """Of images that stay as they are, bit for bit, where the extra pass is the only difference."""
    torch.manual_seed(0)
    net = timm.create_model("test_resnet", num_classes=4, drop_rate=0.3)
    images, labels = torch.randn(4, 3, 64, 64), torch.arange(4)
    params = CoMixup().draw(4, Place(0, 0))
    params.extra["start"].zero_()
    states = []
    for mixer, drawn in ((CoMixup(), params), (CoMixup(prob=0.0), CoMixup(prob=0.0).draw(4, Place(0, 0)))):
        model = AlignMixModel(timm.create_model("test_resnet", num_classes=4, drop_rate=0.3), mixer=mixer).train()
        model.model.load_state_dict(net.state_dict())
        torch.manual_seed(1)
        model(images, labels, drawn).loss.backward()
        gradients = [parameter.grad for parameter in model.model.parameters()]
        states.append([*gradients, *model.model.state_dict().values(), torch.get_rng_state()])
    assert all(torch.equal(first, second) for first, second in zip(*states, strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 0}, "alpha must be > 0"),
        ({"prob": 2}, r"prob must be in \[0, 1\]"),
        ({"blocks": 0}, "blocks must be a whole number >= 1, got 0"),
        ({"part": 1}, "part must be a whole number >= 2, got 1"),
        ({"sweeps": 1.5}, "sweeps must be a whole number >= 1, got 1.5"),
        ({"gamma": -1}, "gamma must be >= 0 and finite, got -1"),
        ({"tau": math.inf}, "tau must be >= 0 and finite, got inf"),
        ({"omega": 1.5}, r"omega must be in \[0, 1\], got 1.5"),
    ],
)
def test_options_out_of_range(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CoMixup(**options)


def test_images_smaller_than_the_grid() -> None:
    with pytest.raises(ValueError, match="blocks must be at most the sides of the images, 16 x 3, got 4"):
        mixed(CoMixup(), torch.zeros(4, 3, 16, 3), torch.eye(4), torch.ones(4, 16, 3))


def test_the_search_takes_moments() -> None:
    """For 100 images in 5 parts of 20, on the cores that there are."""
    problem, start = random_problem(5, 20)
    assign_cells(problem, start)
    before = time.process_time(), time.perf_counter()
    shown = assign_cells(problem, start)
    processor, wall = time.process_time() - before[0], time.perf_counter() - before[1]
    print(f"\n100 images, 4 x 4 cells: {wall:.3f} s, {processor:.3f} s of a processor")
    assert processor < 2
    inputs = (shown.sum(2) > 0).sum(2).float().mean()
    assert 2 < inputs < 3.5
