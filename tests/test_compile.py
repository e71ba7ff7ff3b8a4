"""The network compiled: one graph for each action, no graph break, the gradients of the plain run."""

import copy
from collections import Counter
from typing import Any

import pytest
import timm
import torch
from style import Identity
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from alignmix_timm import MODES, AlignMix, AlignMixModel, Autoencoder, MixParams, attach, draw
from alignmix_timm.mixers import (
    MIXERS,
    AlignMixup,
    CoMixup,
    ManifoldMixup,
    Mixer,
    NoMixing,
    OneOf,
    PuzzleMix,
    make_mixer,
)
from alignmix_timm.params import Place

QUICK = (("test_resnet", 64),)
FAMILIES = (
    ("test_vit", 64),
    ("test_convnext", 64),
    ("test_efficientnet", 64),
    ("test_nfnet", 64),
    ("test_mambaout", 64),
    ("regnety_002", 64),
    ("swin_tiny_patch4_window7_224", 224),
)
ALL = [*QUICK, *(pytest.param(*family, marks=pytest.mark.slow) for family in FAMILIES)]


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()


def build(name: str, size: int, **options: Any) -> AlignMixModel:
    torch.manual_seed(0)
    if name == "test_vit":
        options["img_size"] = size
    net = timm.create_model(name, num_classes=4, drop_path_rate=0.0, **options)
    return AlignMixModel(net, input_size=(3, size, size)).train()


def steps(size: int) -> list[tuple[Tensor, MixParams]]:
    """All modes twice, then odd and short batches."""
    generator = torch.Generator().manual_seed(1)
    batches = [(4, mode) for mode in ("none", "input", "embed", "feat", "feat_swap", "none", "embed", "feat")]
    batches += [(3, "feat"), (5, "embed"), (3, "none"), (4, "feat")]
    return [
        (torch.randn(count, 3, size, size, generator=generator), draw(count, 0, step, modes=(mode,)))
        for step, (count, mode) in enumerate(batches)
    ]


def gradients(model: AlignMixModel, images: Tensor, params: MixParams) -> list[Tensor]:
    model.zero_grad()
    loss = model(images, torch.zeros(len(images)).long(), params).loss
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize(("name", "size"), ALL)
def test_one_graph_for_each_action(name: str, size: int) -> None:
    model, plain, backend = build(name, size), build(name, size), CompileCounterWithBackend("aot_eager")
    model.model.compile(backend=backend, fullgraph=True)
    graphs: Counter[str] = Counter()
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        for images, params in steps(size):
            before = backend.frame_count
            for found, expected in zip(gradients(model, images, params), gradients(plain, images, params), strict=True):
                assert torch.equal(found, expected)
            if len(images) == 4:
                graphs[model.hooks.action] += backend.frame_count - before
            if params.mode == "input":  # validation within the epoch
                assert torch.equal(model.eval()(images).logits, plain.eval()(images).logits)
                model.train(), plain.train()
    assert dict(graphs) == {"none": 1, "embed": 1, "feat": 1}
    assert not torch._dynamo.utils.counters["graph_break"]


@pytest.mark.slow
def test_mixers_in_turns_stay_within_the_limit_of_graphs() -> None:
    """AlignMix and manifold mixup at two layers, with validation: however long the run."""
    mixers: list[Mixer] = [AlignMixup(modes=(mode,)) for mode in ("input", "embed", "feat", "feat_swap")]
    mixers += [NoMixing(), *(ManifoldMixup((layer,)) for layer in ("input", 1, 2))]
    net = build("test_resnet", 64).detach()
    model = AlignMixModel(net, mixer=OneOf((AlignMixup(), ManifoldMixup())), input_size=(3, 64, 64)).train()
    plain, backend = copy.deepcopy(model), CompileCounterWithBackend("aot_eager")
    net.compile(backend=backend, fullgraph=True)
    images, labels = torch.randn(4, 3, 64, 64), torch.arange(4)
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        for step, mixer in enumerate((*mixers, *reversed(mixers))):
            params = mixer.draw(4, Place(0, step))
            losses = [one(images, labels, params).loss for one in (model, plain)]
            assert losses[0] == losses[1]
            losses[0].backward()
            assert torch.equal(model.eval()(images).logits, plain.eval()(images).logits)
            model.train(), plain.train()
    assert backend.frame_count == 6  # evaluation; none or images; the embedding; the mixing point; two layers
    assert not torch._dynamo.utils.counters["graph_break"]


class Tiny(nn.Sequential):
    num_classes = 4


@pytest.mark.parametrize("mixer", [PuzzleMix(blocks=(4,)), CoMixup(part=2)], ids=lambda mixer: mixer.name)
def test_the_pass_for_saliency_is_one_more_graph(mixer: Mixer) -> None:
    """However many steps there are, with validation in between."""
    torch.manual_seed(0)
    net = Tiny(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    model, backend = AlignMixModel(net, mixer=mixer, input_size=(3, 16, 16)).train(), CompileCounterWithBackend("eager")
    plain = copy.deepcopy(model)
    net.compile(backend=backend, fullgraph=True)
    images, counts = torch.randn(4, 3, 16, 16), []
    for step in range(3):
        params = mixer.draw(4, Place(0, step))
        for found, expected in zip(gradients(model, images, params), gradients(plain, images, params), strict=True):
            assert torch.allclose(found, expected, rtol=1e-5)
        with torch.no_grad():
            model.eval()(images), plain.eval()(images)
        model.train(), plain.train()
        counts.append(backend.frame_count)
    assert counts == [3, 3, 3]  # in eval mode with gradients by the images, training, validation
    assert model.hooks.saliency_passes == 3


STYLE: dict[str, Any] = {"codec": Identity(), "size": None, "prob": 1.0}
OF_THE_REGISTRY = {name: make_mixer(name, **(STYLE if "style" in name else {})) for name in MIXERS}
GRAPHS = {"alignmix": 3, "manifold": 3, "puzzlemix": 2, "comixup": 2}  # in place of one


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_THE_REGISTRY)
def test_every_mixer_trains_a_compiled_network(name: str) -> None:
    model, backend, seen = build("test_resnet", 64), CompileCounterWithBackend("aot_eager"), set()
    mixer = OF_THE_REGISTRY[name]
    model = AlignMixModel(model.detach(), mixer=mixer, input_size=(3, 64, 64)).train()
    plain = copy.deepcopy(model)
    model.model.compile(backend=backend, fullgraph=True)
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        for step in range(12):
            params = mixer.draw(4, Place(0, step))
            for found, expected in zip(gradients(model, images, params), gradients(plain, images, params), strict=True):
                assert torch.equal(found, expected)
            seen.add(params.label)
    assert len(seen) == {"alignmix": 4, "manifold": 3}.get(name, 1)
    assert backend.frame_count == GRAPHS.get(name, 1)
    assert not torch._dynamo.utils.counters["graph_break"]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in OF_THE_REGISTRY if name not in ("alignmix", "manifold")])
def test_every_mixer_of_images_trains_a_compiled_wrapper(name: str) -> None:
    """As the Hugging Face Trainer compiles it: in few graphs, none of them anew for every step."""
    mixer, backend, counts = OF_THE_REGISTRY[name], CompileCounterWithBackend("eager"), []
    model = AlignMixModel(build("test_resnet", 64).detach(), mixer=mixer, input_size=(3, 64, 64)).train()
    plain, compiled = copy.deepcopy(model), torch.compile(model, backend=backend)
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for step in range(5):
        params = mixer.draw(4, Place(0, step))
        found, expected = (one(images, torch.arange(4), params) for one in (compiled, plain))
        found.loss.backward()
        assert torch.allclose(found.loss, expected.loss, rtol=1e-5)
        assert torch.equal(found.targets, expected.targets)
        counts.append(backend.frame_count)
    assert counts == counts[:1] * 5
    assert counts[0] <= 4


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), [("test_resnet", {"act_layer": "silu"}), ("test_vit", {})])
def test_inductor_gives_the_gradients_of_the_plain_run(name: str, options: dict[str, str]) -> None:
    """On smooth activations: at a kink of ReLU, rounding decides about a whole entry of the gradient."""
    model, plain = build(name, 64, **options), build(name, 64, **options)
    model.model.compile()
    for images, params in steps(64):
        for found, expected in zip(gradients(model, images, params), gradients(plain, images, params), strict=True):
            assert (found - expected).norm() <= 1e-4 * expected.norm() + 1e-7


def test_state_dict_keys_stay_when_the_network_is_compiled_in_place() -> None:
    model = build("test_resnet", 64)
    keys = list(model.state_dict())
    model.model.compile(backend="eager")
    assert list(model.state_dict()) == keys


def test_a_compiled_model_is_refused() -> None:
    net = torch.compile(timm.create_model("test_resnet", num_classes=4), backend="eager")
    with pytest.raises(ValueError, match="the model is compiled already: attach AlignMix to the network first"):
        attach(net)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_a_compiled_wrapper_takes_images_of_another_size_than_the_network_was_built_for(backend: str) -> None:
    """As the Hugging Face Trainer compiles it: the choice of a point, a trace of its own, must not be traced."""
    torch.manual_seed(0)
    model = AlignMixModel(timm.create_model("test_resnet", num_classes=4, act_layer="silu"))
    plain, compiled = copy.deepcopy(model), torch.compile(model, backend=backend)
    assert model.hooks.point.input_size == (3, 160, 160)
    for step, mode in enumerate(MODES):
        images, params = torch.randn(4, 3, 64, 64), draw(4, 0, step, modes=(mode,))
        found, expected = (one(images, torch.arange(4), params) for one in (compiled, plain))
        assert torch.allclose(found.loss, expected.loss, atol=1e-5)
        assert torch.equal(found.targets, expected.targets)
    assert model.hooks.point.input_size == (3, 64, 64)
    model.eval(), plain.eval()
    assert torch.allclose(compiled(images).logits, plain(images).logits, atol=1e-5)


def test_a_network_that_was_compiled_and_called_before_is_noticed() -> None:
    net = timm.create_model("test_resnet", num_classes=4).train()
    net.compile(backend="eager")
    images = torch.randn(4, 3, 64, 64)
    net(images)
    mixup_fn = AlignMix(net, modes=("feat",), input_size=(3, 64, 64))
    x, _ = mixup_fn(images, torch.arange(4))
    net(x)
    with pytest.raises(RuntimeError, match="compiled and called before AlignMix was attached"):
        mixup_fn(images, torch.arange(4))


def test_a_timm_loop_may_compile_after_attaching() -> None:
    net = timm.create_model("test_resnet", num_classes=4).train()
    mixup_fn = AlignMix(net, modes=("feat",), input_size=(3, 64, 64))
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    for step in range(2):
        outputs = []
        for model in (compiled, net):
            mixup_fn.step = step
            x, y = mixup_fn(torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(step)), torch.arange(4))
            outputs.append(nn.functional.cross_entropy(model(x), y))
        assert torch.allclose(*outputs, atol=1e-5)


@pytest.mark.slow
def test_a_variational_encoder_has_one_graph_for_each_action() -> None:
    torch.manual_seed(0)
    options = dict(backbone="preact_resnet18", img_size=32, embed_dim=16, backbone_args={"width": 4})
    net = timm.create_model("alignmix_encoder", num_classes=4, **options)
    model = Autoencoder(net, (3, 32, 32), variational=True, decoder_width=4).train()
    batches = [(torch.randn(4, 3, 32, 32), draw(4, 0, 0, modes=(mode,))) for mode in (*MODES, "clean", "none")]
    losses: list[list[float]] = []
    backend = CompileCounterWithBackend("aot_eager")
    for compiled in (False, True):
        if compiled:
            model.classifier.model.compile(backend=backend)
        losses.append([])
        for images, params in batches:
            torch.manual_seed(1)
            loss = model(images, torch.zeros(4).long(), params).loss
            loss.backward()
            losses[-1].append(loss.item())
    assert losses[0] == losses[1]
    assert backend.frame_count == 3
    assert not torch._dynamo.utils.counters["graph_break"]
