"""One table for all mixers: every row keeps the same promises. A new mixer gets a row here, and nothing else."""

import copy
import functools
import pickle
import random
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from style import Identity
from torch import Tensor, nn
from torch.utils.data import DataLoader

from alignmix_timm import AlignMix, AlignMixCollator, AlignMixModel, MixParams, detach
from alignmix_timm.mixers import (
    AlignMixup,
    CoMixup,
    CutMix,
    Cutout,
    InputMixup,
    ManifoldMixup,
    Mixer,
    NoMixing,
    OneOf,
    PuzzleMix,
    SaliencyMix,
    StyleCutMix,
    StyleMix,
)
from alignmix_timm.mixers.cutmix import box_around, inside
from alignmix_timm.params import FEATURE_MODES, Place

ROWS: dict[str, Mixer] = {
    "alignmix": AlignMixup(),
    "alignmix, input": AlignMixup(modes=("input",)),
    "alignmix, embed": AlignMixup(modes=("embed",)),
    "alignmix, feat": AlignMixup(modes=("feat",)),
    "alignmix, feat_swap": AlignMixup(modes=("feat_swap",)),
    "alignmix, shared lam": AlignMixup(alpha=0.5, modes=["feat", "embed"], weights=[3, 1], prob=0.7, per_example=False),
    "unaligned": AlignMixup(modes=FEATURE_MODES, aligned=False),
    "manifold": ManifoldMixup(),
    "manifold, modules": ManifoldMixup(["layer1.0", "layer3", "input"], prob=0.7),
    "manifold, own lam": ManifoldMixup((2, 4), alpha=1.0, per_example=True),
    "mixup": InputMixup(),
    "mixup, own lam": InputMixup(alpha=0.3, prob=0.7, per_example=True),
    "cutmix": CutMix(),
    "cutmix, own box": CutMix(alpha=2.0, prob=0.7, per_example=True),
    "cutmix, minmax": CutMix(minmax=(0.2, 0.8)),
    "cutmix, own minmax": CutMix(minmax=[0.0, 1.0], per_example=True),
    "cutout": Cutout(fill=-1.5, prob=0.7),
    "saliencymix": SaliencyMix(),
    "saliencymix, own box": SaliencyMix(alpha=2.0, prob=0.7, per_example=True, mean=(0.5,) * 3, std=(0.2,) * 3),
    "stylemix": StyleMix(codec=Identity(), size=None, prob=0.7, per_example=True),
    "stylecutmix": StyleCutMix(codec=Identity(), size=None, prob=0.7),
    "puzzlemix": PuzzleMix(),
    "puzzlemix, own lam": PuzzleMix(alpha=2.0, prob=0.7, per_example=True, blocks=[3, 4], transport_size=8),
    "comixup": CoMixup(),
    "comixup, others": CoMixup(alpha=0.5, prob=0.7, blocks=3, part=3, gamma=0.2),
    "one of": OneOf((AlignMixup(), ManifoldMixup(), InputMixup(), CutMix(per_example=True), NoMixing())),
    "one of, until": OneOf([AlignMixup(), CutMix()], [1, 3], prob=0.7, until=6),
    "one of, within": OneOf((OneOf((CutMix(), InputMixup())), ManifoldMixup(("layer3",))), (2, 1)),
    "none": NoMixing(),
}
LAYERS = (1, 2, 4, "layer1.0", "layer3")  # of the rows
STEPS = range(9)
CLASSES, SIZE = 6, (64, 96)

each_row = pytest.mark.parametrize("mixer", ROWS.values(), ids=ROWS)


@functools.cache
def shared() -> AlignMixModel:
    """A wrapper whose batch norm forgets, hooked where any row mixes."""
    torch.manual_seed(0)
    net = timm.create_model("test_resnet", num_classes=CLASSES)
    model = AlignMixModel(net, mixer=OneOf((AlignMixup(), ManifoldMixup(LAYERS))), input_size=(3, *SIZE)).train()
    return fixed_norms(model)


def fixed_norms(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return model


def mixing(mixer: Mixer) -> AlignMixModel:
    model = shared()
    model.mixer = mixer
    return model


def images(batch: int = 5) -> Tensor:
    return torch.randn(batch, 3, *SIZE, generator=torch.Generator().manual_seed(batch))


def labels(batch: int = 5) -> Tensor:
    return torch.arange(batch)


def draws(mixer: Mixer, batch: int = 5) -> list[MixParams]:
    """What a row draws first, each place, and so each layer and mode, once."""
    found = {params.label: params for params in (mixer.draw(batch, Place(3, step)) for step in range(40))}
    return list(found.values())


def pairs(mixer: Mixer) -> bool:
    """Whether examples have partners: Cutout needs none, Co-Mixup puts each image together from several."""
    return not isinstance(mixer, Cutout | CoMixup)


def contents(params: MixParams) -> dict[str, object]:
    """All that was drawn, to compare bit by bit."""
    extra = {name: value.tolist() for name, value in params.extra.items()}
    return {**vars(params), "lam": params.lam.tolist(), "perm": params.perm.tolist(), "extra": extra}


@each_row
def test_the_same_place_gives_the_same_bits(mixer: Mixer) -> None:
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    places = [Place(seed, step, micro) for seed in (0, 1) for step in STEPS for micro in (0, 1)]
    first = [contents(mixer.draw(32, place)) for place in places]
    again = [contents(pickle.loads(pickle.dumps(mixer)).draw(32, place)) for place in reversed(places)]
    assert first == again[::-1]
    assert states == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    mixed = [str(drawn["perm" if pairs(mixer) else "extra"]) for drawn in first if drawn["mode"] != "none"]
    assert len(set(mixed)) == len(mixed)


@each_row
def test_processes_agree_on_what_is_done_and_not_with_whom(mixer: Mixer) -> None:
    for step in STEPS:
        drawn = [mixer.draw(batch, Place(0, step, micro)) for micro, batch in enumerate((32, 32, 7))]
        agreed = [params.extra.get("blocks", torch.zeros(1)).unique().tolist() for params in drawn]
        done = [(params.mode, params.mixer, params.layer, params.aligned) for params in drawn]
        assert done == done[:1] * 3
        assert agreed == agreed[:1] * 3
        if drawn[0].mode != "none":
            own = drawn[0].extra.keys() - {"blocks"}
            if pairs(mixer):
                assert not torch.equal(drawn[0].perm, drawn[1].perm)
                assert not torch.equal(drawn[0].lam, drawn[1].lam)
            assert all(not torch.equal(drawn[0].extra[name], drawn[1].extra[name]) for name in own)


@each_row
def test_what_is_drawn_has_the_form_of_a_batch(mixer: Mixer) -> None:
    for params in draws(mixer):
        assert params.lam.dtype == torch.float32
        assert 0 <= params.lam.min() <= params.lam.max() <= 1
        assert sorted(params.perm.tolist()) == list(range(5))
        assert all(len(value) == 5 for value in params.extra.values())
        assert params.mode == "none" or params.mixer in mixer.names
        assert params.mode != "none" or params.lam.eq(1).all()
        assert not params.mixes_features or params.layer in mixer.feature_layers
        if params.mode != "none" and hasattr(mixer, "per_example"):
            shares = params.extra.get("sides", params.lam[:, None])
            assert len(shares.unique(dim=0)) == (5 if mixer.per_example else 1)


def without_partner(params: MixParams) -> MixParams:
    """The same mix, of which nothing comes from the partner."""
    known = {
        "sides": 0.0,
        "start": 0,
        "style": 1.0,
        "place": 0.5,
    }  # no box, one's own style, a box of full size in the middle
    extra = {
        name: torch.full_like(value, known[name]) if name in known else value for name, value in params.extra.items()
    }
    return replace(params, lam=torch.ones_like(params.lam), extra=extra)


@each_row
def test_lam_one_changes_no_bit(mixer: Mixer) -> None:
    model = mixing(mixer)
    with torch.no_grad():
        plain = model(images(), labels(), NoMixing().draw(5, Place(0, 0)))
        for params in draws(mixer):
            output = model(images(), labels(), without_partner(params))
            assert torch.equal(output.logits, plain.logits), params.label
            assert torch.equal(output.targets, plain.targets), params.label


@each_row
def test_targets_are_the_mixture(mixer: Mixer) -> None:
    """Each class has its share, whatever the labels; for CutMix that of the pixels."""
    if isinstance(mixer, CoMixup):
        pytest.skip("mixes more than two images: see test_comixup.py")
    model, seen = mixing(mixer), []
    handle = model.model.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model.label_smoothing = 0.1
    with torch.no_grad():
        for params in draws(mixer):
            if params.mixer == "puzzlemix":  # whose shares depend on the targets: tests/test_puzzlemix.py
                continue
            output = model(images(), labels(), params)
            own, partner = images(), images()[params.perm]
            share = params.lam
            if params.mode == "none":
                assert torch.equal(seen[-1], own)
            elif params.mixer in ("cutmix", "saliencymix"):
                kept, pasted = (seen[-1] == own).all(1), (seen[-1] == partner).all(1)
                assert (kept | pasted).all()
                share = torch.where(params.perm == labels(), 1.0, kept.float().mean((1, 2)))
            elif params.mixer == "stylemix":  # the images: see test_stylemix.py
                share = mixer.ratio * params.lam + (1 - mixer.ratio) * params.extra["style"]
            elif params.mixer == "stylecutmix":
                gamma, height, width = params.extra["gamma"], *SIZE
                area = (
                    inside(box_around(params.extra["place"], 1 - params.lam, height, width), *SIZE).float().mean((1, 2))
                )
                restyled = gamma * area + (1 - gamma) * params.extra["style"]
                share = mixer.ratio * area + (1 - mixer.ratio) * restyled
            elif params.mixer == "cutout":
                kept, hole = seen[-1] == own, seen[-1] == mixer.fill
                assert (kept | hole).all()
                assert not kept.all()
            elif params.mode == "input":
                lam = params.lam.view(-1, 1, 1, 1)
                assert torch.allclose(seen[-1], lam * own + (1 - lam) * partner, atol=1e-6)
            one_hot = F.one_hot(labels(), CLASSES)
            mixture = share[:, None] * one_hot + (1 - share[:, None]) * one_hot[params.perm]
            assert torch.allclose(output.targets, 0.9 * mixture + 0.1 / CLASSES, atol=1e-6), params.label
            assert torch.allclose(output.targets.sum(1), torch.ones(5), atol=1e-6)
            soft = torch.rand(5, CLASSES)
            targets = model(images(), soft, params).targets
            assert torch.allclose(targets, share[:, None] * soft + (1 - share[:, None]) * soft[params.perm], atol=1e-6)
    handle.remove()
    model.label_smoothing = 0.0


@each_row
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dtype_and_memory_format_are_kept(mixer: Mixer, dtype: torch.dtype) -> None:
    model = copy.deepcopy(mixing(mixer)).to(dtype, memory_format=torch.channels_last)
    batch, seen = images().to(dtype, memory_format=torch.channels_last), {}
    for name in ("", *(model.hooks.point.modules[:1]), *map(str, LAYERS[-2:])):
        module = model.model.get_submodule(name)
        module.register_forward_pre_hook(lambda module, args, name=name: seen.update({f"into {name}": args[0]}))
        module.register_forward_hook(lambda module, args, output, name=name: seen.update({f"after {name}": output}))
    with torch.no_grad():
        for params in draws(mixer):
            assert model(batch, labels(), params).logits.dtype == dtype
            for name, value in seen.items():
                assert value.dtype == dtype, (params.label, name)
                assert value.ndim == 2 or value.is_contiguous(memory_format=torch.channels_last), (params.label, name)


@each_row
def test_short_and_odd_batches(mixer: Mixer) -> None:
    model = mixing(mixer)
    assert not pairs(mixer) or {mixer.draw(1, Place(0, step)).mode for step in STEPS} == {"none"}
    with torch.no_grad():
        for batch in (1, 2, 3):
            for params in draws(mixer, batch):
                output = model(images(batch), labels(batch), params)
                assert output.loss.isfinite()
                assert output.targets.shape == (batch, CLASSES)


@each_row
def test_the_order_of_the_batch_does_not_matter(mixer: Mixer) -> None:
    model, order = mixing(mixer), torch.tensor([3, 0, 4, 1, 2])
    with torch.no_grad():
        for params in draws(mixer):
            perm = order.argsort()[params.perm[order]]
            extra = {name: value[order] for name, value in params.extra.items()}
            reordered = replace(params, lam=params.lam[order], perm=perm, extra=extra)
            output = model(images(), labels(), params)
            found = model(images()[order], labels()[order], reordered)
            assert torch.allclose(found.logits, output.logits[order], atol=1e-4), params.label
            assert torch.allclose(found.targets, output.targets[order])


@each_row
def test_micro_batches_add_up(mixer: Mixer) -> None:
    model = mixing(mixer)

    def gradients(*micros: int) -> list[Tensor]:
        model.zero_grad()
        for micro in micros:
            model(images(3 + micro), labels(3 + micro), mixer.draw(3 + micro, Place(0, 1, micro))).loss.backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    for both, first, second in zip(gradients(0, 1), gradients(0), gradients(1), strict=True):
        assert torch.allclose(both, first + second, atol=1e-5)


@each_row
def test_copies_are_alike(mixer: Mixer) -> None:
    for copied in (copy.deepcopy(mixer), pickle.loads(pickle.dumps(mixer))):
        assert copied == mixer
        assert str(copied) == str(mixer)
    for params in draws(mixer):
        for one in (copy.deepcopy(params), pickle.loads(pickle.dumps(params)), params.to("cpu")):
            assert contents(one) == contents(params)


@pytest.mark.parametrize("name", ["cutmix, own minmax", "one of"])
def test_batches_come_whole_from_data_workers(name: str) -> None:
    mixer = ROWS[name]
    rows = [{"image": image, "label": row} for row, image in enumerate(images(4))]
    loader = DataLoader(
        rows, 4, collate_fn=AlignMixCollator(seed=2, mixer=mixer), num_workers=1, persistent_workers=True
    )
    for step in range(6):
        params = next(iter(loader))["mix"].params
        assert contents(params) == contents(mixer.draw(4, Place(2, step)))
        with torch.no_grad():
            assert mixing(mixer)(images(4), labels(4), params).loss.isfinite()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
def test_pinned_batches_are_alike() -> None:
    for params in (params for mixer in ROWS.values() for params in draws(mixer)):
        pinned = params.pin_memory()
        assert contents(pinned) == contents(params)
        assert all(value.is_pinned() for value in (pinned.lam, pinned.perm, *pinned.extra.values()))


@each_row
def test_the_drop_in_mixes_as_the_wrapper(mixer: Mixer) -> None:
    model = mixing(mixer)
    net = copy.deepcopy(model.model)
    detach(net)
    mixup_fn = AlignMix(net, seed=3, mixer=mixer, input_size=(3, *SIZE))
    with torch.no_grad():
        for step in STEPS:
            params = mixer.draw(5, Place(3, step))
            output = model(images(), labels(), params)
            mixed, targets = mixup_fn(images(), labels())
            assert mixup_fn.last == params.label
            assert torch.equal(net(mixed), output.logits)
            assert torch.equal(targets, output.targets)
    mixup_fn.mixup_enabled = False
    assert torch.equal(mixup_fn(images(), labels())[0], images())
    assert mixup_fn.last == "none"
