"""Other people's hooks and state on a model: neither in the way of a point, nor touched by its choice."""

import copy
import functools
import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import timm
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import init_device_mesh
from torch.nn.utils import prune, spectral_norm, weight_norm
from torch.utils._pytree import tree_leaves

from alignmix_timm import AlignMixModel, MixingPoint, attach, choose_point, draw
from alignmix_timm.points.effect import alignment_effect

SIZE, OTHER = (3, 64, 64), (3, 96, 64)


class Watcher:
    """A hook with state that cannot be copied; it may see no fake tensor."""

    def __init__(self) -> None:
        self.lock, self.file, self.calls = threading.Lock(), Path(__file__).open(), 0  # noqa: SIM115

    def __call__(self, module: nn.Module, args: Any, output: Any = None) -> None:
        assert not any(isinstance(leaf, FakeTensor) for leaf in tree_leaves((args, output)))
        self.calls += 1

    def __del__(self) -> None:
        self.file.close()


def first(net: nn.Module) -> nn.Conv2d:
    return next(module for module in net.modules() if isinstance(module, nn.Conv2d))


def weight_normed(net: nn.Module) -> None:
    weight_norm(first(net))


def spectral_normed(net: nn.Module) -> None:
    spectral_norm(first(net))


def pruned(net: nn.Module) -> None:
    prune.l1_unstructured(first(net), "weight", 0.5)


def parametrized(net: nn.Module) -> None:
    nn.utils.parametrizations.weight_norm(first(net))


def watched(net: nn.Module) -> None:
    net.watcher = watcher = Watcher()
    net.watchers = [watcher, {"lock": threading.Lock()}]
    first(net).register_forward_hook(watcher)
    first(net).register_forward_pre_hook(watcher, prepend=True)
    first(net).register_full_backward_hook(watcher)


def stored(net: nn.Module) -> None:
    """The last activation, and a queue of them, as of a logger."""
    net.queue = deque(maxlen=2)

    def store(module: nn.Module, args: Any, output: Tensor) -> None:
        module.last = output
        net.queue.append(output)

    net.layer2.register_forward_hook(store)


def replaced_forward(net: nn.Module) -> None:
    """As Accelerate's mixed precision and its dispatch to devices do."""
    net.forward = functools.partial(type(net).forward, net)
    first(net).forward = first(net).forward


def compiled(net: nn.Module) -> None:
    net.layer1 = torch.compile(net.layer1, backend="eager")
    net.layer2.compile(backend="eager")


def scripted(net: nn.Module) -> None:
    net.layer1[0].act1 = torch.jit.script(nn.ReLU())


FOREIGN = [
    *(weight_normed, spectral_normed, pruned, parametrized, watched, stored, replaced_forward),
    *(compiled, scripted),
]


def make() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("test_resnet", num_classes=4)


@functools.cache
def plain_point(size: tuple[int, int, int]) -> tuple[Any, ...]:
    return by_value(choose_point(make(), size))


def by_value(point: MixingPoint) -> tuple[Any, ...]:
    """A point, whose names may be those within a compiled module."""
    return (point.feature_module.replace("_orig_mod.", ""), point.layout, point.map_size, point.classifiers)


@pytest.mark.parametrize("add", FOREIGN)
def test_foreign_state_is_not_in_the_way(add: Callable[[nn.Module], None]) -> None:
    """Not when attaching, nor at a named module, nor in the middle of training at a new image size."""
    net = make()
    add(net)
    net(torch.randn(2, *SIZE))
    attach(net, feature_module="layer3.0", input_size=SIZE).detach()
    model = AlignMixModel(net, input_size=SIZE)
    assert by_value(model.hooks.point) == plain_point(SIZE)
    for step, size in enumerate((SIZE, OTHER)):
        model(torch.randn(3, *size), torch.arange(3), draw(3, 0, step, modes=("feat",))).loss.backward()
    assert by_value(model.hooks.point) == plain_point(OTHER)


@pytest.mark.parametrize("add", FOREIGN)
def test_foreign_state_stays_as_it_was(add: Callable[[nn.Module], None]) -> None:
    net = make()
    add(net)
    net(torch.randn(2, *SIZE))
    net.layer1.eval()
    held = [
        {name: value for name, value in vars(module).items() if "_compiled" not in name} for module in net.modules()
    ]
    before = [copy.copy(each) for each in held]
    tables = [{name: copy.copy(value) for name, value in each.items() if type(value) in (dict, list)} for each in held]
    state = {name: value.clone() for name, value in net.state_dict().items()}
    random_state = torch.get_rng_state()
    alignment_effect(net, choose_point(net, SIZE))
    assert torch.equal(random_state, torch.get_rng_state())
    for module, attributes, containers in zip(net.modules(), before, tables, strict=True):
        for name, value in attributes.items():
            assert vars(module)[name] is value, name
        for name, value in containers.items():
            assert list(map(id, vars(module)[name])) == list(map(id, value)), name
    assert all(torch.equal(state[name], value) for name, value in net.state_dict().items())
    if add is watched:
        assert net.watcher.calls == 2
        assert not net.watcher.file.closed
    if add is stored:
        assert len(net.queue) == 1
        assert not isinstance(net.queue[0], FakeTensor)


def test_caches_of_a_module_get_no_fake_tensors() -> None:
    class Caching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.by_size: dict[Any, Any] = {}
            self.seen, self.owner = [], [self]  # a circle

        def forward(self, x: Tensor) -> Tensor:
            if x.shape not in self.by_size:
                self.by_size[x.shape] = {"scale": torch.ones(x.shape[1:])}
            self.owner[0].seen.append(x)
            return x * self.by_size[x.shape]["scale"]

    net = make()
    net.layer1.add_module("cache", Caching())
    choose_point(net, SIZE)
    assert net.layer1.cache.by_size == {}
    assert net.layer1.cache.seen == []


class Sizes(NamedTuple):
    """A tuple with names."""

    scale: Tensor
    channels: int


class Keeping(nn.Module):
    """A module with attributes of derived types, which its forward pass needs."""

    def __init__(self) -> None:
        super().__init__()
        self.shape, self.sizes = torch.zeros(2, 3).shape, Sizes(torch.ones(1), 3)
        self.names = frozenset({"a"}), {"b"}

    def forward(self, x: Tensor) -> Tensor:
        return x * (self.shape.numel() == 6) * self.sizes.scale * len(self.names[0] | self.names[1])


def test_attributes_keep_their_types() -> None:
    net = make()
    net.layer1.add_module("keeping", Keeping())
    assert by_value(choose_point(net, SIZE)) == plain_point(SIZE)
    assert alignment_effect(net, choose_point(net, SIZE)) > 1e-3


def test_hooks_for_all_modules_do_not_run() -> None:
    watcher = Watcher()
    handles = [
        nn.modules.module.register_module_forward_hook(watcher),
        nn.modules.module.register_module_forward_pre_hook(watcher),
    ]
    try:
        net = make()
        alignment_effect(net, choose_point(net, SIZE))
    finally:
        for handle in handles:
            handle.remove()
    assert watcher.calls == 0


@pytest.fixture(scope="module")
def process_group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    store = dist.FileStore(str(tmp_path_factory.mktemp("store") / "file"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_synchronised_batch_norm(process_group: None) -> None:
    net = nn.SyncBatchNorm.convert_sync_batchnorm(make(), dist.new_group([0]))
    attach(net, feature_module="layer3.0", input_size=SIZE).detach()
    assert by_value(choose_point(net, SIZE)) == plain_point(SIZE)


def test_a_sharded_model_meets_a_new_image_size(process_group: None) -> None:
    net = make()
    model = AlignMixModel(net, input_size=SIZE)
    mesh = init_device_mesh("cpu", (1,))
    fully_shard(net.layer1, mesh=mesh)
    fully_shard(net, mesh=mesh)
    for step, size in enumerate((SIZE, OTHER)):
        model(torch.randn(3, *size), torch.arange(3), draw(3, 0, step, modes=("feat",))).loss.backward()
    assert by_value(model.hooks.point) == plain_point(OTHER)
    model.detach()
    assert alignment_effect(net, model.hooks.point) == pytest.approx(alignment_effect(make(), model.hooks.point))
