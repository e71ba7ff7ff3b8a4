"""The four assignments: transport, and what it is compared with, against mixing by hand."""

import copy

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils.checkpoint import checkpoint

from alignmix_timm import AlignMix, AlignMixModel, Autoencoder, MixParams, align, assign, draw
from alignmix_timm.alignment import Alignment, block_size
from alignmix_timm.mixers import AlignMixup
from alignmix_timm.params import Place
from alignmix_timm.seeds import Stream, generator

CONTROLS = ("none", "shuffled", "uniform")
LABELS = torch.arange(4)


def build(**options: object) -> AlignMixModel:
    torch.manual_seed(0)
    net = timm.create_model("test_resnet", num_classes=4)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0  # the statistics stay as they are
    return AlignMixModel(net, input_size=(3, 64, 64), **options).train()


def images(size: int = 64) -> Tensor:
    return torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(1))


def moved_partners(model: AlignMixModel, params: MixParams, size: int = 64) -> tuple[Tensor, Tensor, Tensor]:
    """At the mixing point: tokens, their partners, and what these became: each [B, N, D]."""
    seen: dict[str, Tensor] = {}
    module = model.model.get_submodule(model.hooks.point.feature_module)
    handles = [
        module.register_forward_hook(lambda m, a, out: seen.update(before=out), prepend=True),
        module.register_forward_hook(lambda m, a, out: seen.update(after=out)),
    ]
    with torch.no_grad():
        model(images(size), LABELS, params)
    for handle in handles:
        handle.remove()
    before, after = (seen[name].flatten(2).mT for name in ("before", "after"))
    lam = params.lam.view(-1, 1, 1)
    return before, before[params.perm], (after - lam * before) / (1 - lam)


def positions(tokens: Tensor, moved: Tensor) -> Tensor:
    """For each moved token, the index of the token it was; [B, N]."""
    distance, index = torch.cdist(tokens.double(), moved.double()).min(1)
    assert distance.max() < 1e-3
    return index


@pytest.mark.parametrize("mode", ["feat", "feat_swap"])
def test_features_are_mixed_with_what_the_assignment_says(mode: str) -> None:
    params = draw(4, 0, 3, modes=(mode,))
    for assignment in ("transport", *CONTROLS):
        model = build(assignment=assignment)
        tokens, partners, moved = moved_partners(model, params)
        assert (model.hooks.transport is not None) == (assignment == "transport")
        if assignment == "shuffled":
            found = positions(partners, moved)
            assert torch.equal(found.sort(1).values, torch.arange(16).expand(4, 16))  # each position once
            assert len({tuple(row) for row in found.tolist()}) == 4  # differs from pair to pair
            continue
        expected = {
            "transport": align(partners, assign(tokens, partners).assignment),
            "none": partners,
            "uniform": partners.mean(1, keepdim=True).expand_as(partners),
        }
        assert torch.allclose(moved, expected[assignment], atol=1e-4), assignment


def test_a_shuffle_follows_from_the_draw_of_the_batch() -> None:
    model = build(assignment="shuffled")
    drawn = [draw(4, seed, step, modes=("feat",)) for seed, step in ((0, 1), (0, 2), (1, 1), (0, 1))]
    found = [positions(*moved_partners(model, params)[1:]) for params in drawn]
    assert torch.equal(found[0], found[3])
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_shuffled_positions_are_uniform() -> None:
    params = draw(4000, 0, 0, modes=("feat",))
    shuffled = Alignment(assignment="shuffled")
    tokens = torch.arange(9.0).expand(4000, 9).unsqueeze(2)
    moved, _ = shuffled.move(tokens, tokens, (3, 3), shuffled.shuffle_keys(params, (3, 3)))
    share = torch.stack([(moved[:, :, 0] == value).double().mean(0) for value in range(9)])
    assert (share - 1 / 9).abs().max() < 5 * (8 / 81 / 4000) ** 0.5


@pytest.mark.parametrize("grid", [(6, 4), (7, 5)])
def test_blocks_are_shuffled_with_their_arrangement(grid: tuple[int, int]) -> None:
    alignment = Alignment(assignment="shuffled", max_positions=12)
    assert block_size(grid, 12) == 2
    tokens = torch.randn(5, grid[0] * grid[1], 3, generator=torch.Generator().manual_seed(0))
    params = draw(5, 0, 0, modes=("feat",))
    moved, transport = alignment.move(tokens, tokens, grid, alignment.shuffle_keys(params, grid))
    assert transport is None
    found = positions(tokens, moved).view(5, *grid)
    assert len(found.flatten(1).unique(dim=0)) == 5
    row, column = found // grid[1], found % grid[1]
    offsets = torch.arange(grid[0]).view(-1, 1) % 2, torch.arange(grid[1]) % 2
    whole = (row // 2 * 2 + 1 < grid[0]) & (column // 2 * 2 + 1 < grid[1])  # of a block that the edge does not clip
    for index, offset in zip((row, column), offsets, strict=True):
        assert torch.equal((index % 2)[whole], offset.expand_as(index)[whole])
    corners = (row // 2 * 10 + column // 2)[:, ::2, ::2].flatten(1)
    assert all(len(blocks.unique()) == blocks.numel() for blocks in corners)  # each block once


def test_larger_maps_are_shuffled_in_blocks_in_the_model() -> None:
    model = build(assignment="shuffled", max_positions=25)
    params = draw(4, 0, 0, modes=("feat",))
    model(images(160), LABELS, params)
    _, partners, moved = moved_partners(model, params, 160)
    found = positions(partners, moved).view(4, 10, 10)
    assert torch.equal(found[:, 1::2], found[:, ::2] + 10)
    assert torch.equal(found[:, :, 1::2], found[:, :, ::2] + 1)


def test_a_batch_that_is_drawn_unaligned_is_not_moved() -> None:
    params = AlignMixup(modes=("feat",), aligned=False).draw(4, Place(0, 0))
    for assignment in ("shuffled", "uniform"):
        _, partners, moved = moved_partners(build(assignment=assignment), params)
        assert torch.allclose(moved, partners, atol=1e-4)


@pytest.mark.parametrize("assignment", CONTROLS)
def test_tensor_embeddings_are_moved_as_features_are(assignment: str) -> None:
    torch.manual_seed(0)
    options = dict(embedding="tensor", embed_dim=32, img_size=32, backbone_args={"width": 4})
    net = timm.create_model("alignmix_encoder", backbone="preact_resnet18", num_classes=4, **options)
    model = Autoencoder(net, (3, 32, 32), decoder_width=4, assignment=assignment, align_embedding=True).train()
    seen: list[Tensor] = []
    net.get_classifier().register_forward_hook(lambda m, args, out: seen.append(args[0].flatten(2).mT))
    params = draw(4, 0, 0, modes=("embed",))
    plain = net.embed(copy.deepcopy(net.features)(images(32))).flatten(2).mT.detach()
    model(images(32), LABELS, params)
    lam, partners = params.lam.view(-1, 1, 1), plain[params.perm]
    moved = (seen[-1] - lam * plain) / (1 - lam)
    if assignment == "shuffled":
        found = positions(partners, moved)
        assert torch.equal(found.sort(1).values, torch.arange(found.shape[1]).expand_as(found))
        assert len(found.unique(dim=0)) > 1
    else:
        expected = partners if assignment == "none" else partners.mean(1, keepdim=True).expand_as(partners)
        assert torch.allclose(moved, expected, atol=1e-4)


@pytest.mark.parametrize("assignment", ["shuffled", "uniform"])
def test_recomputation_and_copies_repeat_the_assignment(assignment: str) -> None:
    model = build(assignment=assignment)
    params = [draw(4, 0, step, modes=("feat",)) for step in range(2)]

    def gradients(model: AlignMixModel) -> list[Tensor]:
        sum(model(images(), LABELS, one).loss for one in params).backward()  # both passes are over when one is repeated
        return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]

    copied, recomputed = copy.deepcopy(model), copy.deepcopy(model)
    features = recomputed.model.forward_features
    recomputed.model.forward_features = lambda x: checkpoint(features, x, use_reentrant=False)
    expected = gradients(model)
    for other in (copied, recomputed):
        for found, gradient in zip(gradients(other), expected, strict=True):
            assert torch.allclose(found, gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "assignment", ["shuffled", *(pytest.param(one, marks=pytest.mark.slow) for one in CONTROLS[::2])]
)
def test_one_graph_for_each_action(assignment: str) -> None:
    torch.compiler.reset()
    model, plain = build(assignment=assignment), build(assignment=assignment)
    backend = CompileCounterWithBackend("aot_eager")
    model.model.compile(backend=backend, fullgraph=True)
    for step, mode in enumerate(("embed", "feat", "embed", "feat_swap")):
        params = draw(4, 0, step, modes=(mode,))
        assert torch.equal(*(one(images(), LABELS, params).logits for one in (model, plain)))
    assert backend.frame_count == 2


def test_arms_share_their_draws_and_those_of_before() -> None:
    """The seed of a shuffle is drawn after lam and perm, which stay as they were without it."""
    arms = [AlignMixup(modes=("feat",), aligned=aligned) for aligned in (True, False)]
    for step in range(5):
        drawn = [mixer.draw(8, Place(3, step, 1)) for mixer in arms]
        rng = generator(3, Stream.PAIR, step, 1)
        lam, perm = rng.beta(2.0, 2.0, 8).astype(np.float32), rng.permutation(8)
        for params in drawn:
            assert params.lam.tolist() == lam.tolist()
            assert params.perm.tolist() == perm.tolist()
        assert drawn[0].seed == drawn[1].seed == drawn[0].to("meta").seed
    assert len({draw(8, 3, step, micro).seed for step in range(20) for micro in range(2)}) == 40


def test_the_drop_in_takes_the_option() -> None:
    for assignment in ("transport", *CONTROLS):
        net = timm.create_model("test_resnet", num_classes=4).train()
        mixup_fn = AlignMix(net, modes=("feat",), input_size=(3, 64, 64), assignment=assignment)
        x, _ = mixup_fn(images(), LABELS)
        net(x)
        assert (mixup_fn.hooks.transport is not None) == (assignment == "transport")
    with pytest.raises(ValueError, match=r"assignment must be one of .*, got 'random'"):
        AlignMix(timm.create_model("test_resnet"), assignment="random")
