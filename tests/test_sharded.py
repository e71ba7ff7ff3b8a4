"""State dicts of sharded wrappers, and distributed checkpoints; in one process."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from wrapped import NETWORKS, WeightedLoss, network, step, wrapper

from alignmix_timm import AlignMixModel


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One gloo process, this one."""
    store = tmp_path_factory.mktemp("store") / "file"
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield dist.device_mesh.init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def unsharded(model: AlignMixModel, mesh: Any) -> None:
    """As it is."""


def shard(model: AlignMixModel, mesh: Any) -> None:
    fully_shard(model, mesh=mesh)


def shard_blocks(model: AlignMixModel, mesh: Any) -> None:
    for part in model.model.blocks if hasattr(model.model, "blocks") else (model.model.layer1, model.model.layer2):
        fully_shard(part, mesh=mesh)
    fully_shard(model, mesh=mesh)


def shard_network(model: AlignMixModel, mesh: Any) -> None:
    fully_shard(model.model, mesh=mesh)


ALL = [*itertools.product(NETWORKS, [unsharded, shard, shard_blocks, shard_network], [False, True])]
QUICK = [("test_vit", unsharded, False), ("test_vit", shard_blocks, True), ("test_resnet", shard_network, False)]
CASES = [*QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in ALL if case not in QUICK)]


@pytest.mark.parametrize(("name", "sharded", "full"), CASES)
def test_distributed_checkpoints_go_on_where_they_stopped(
    name: str, sharded: Callable[[AlignMixModel, Any], None], full: bool, mesh: Any, tmp_path: Path
) -> None:
    runs = []
    for seed in range(2):
        model = wrapper(name, seed, WeightedLoss())
        sharded(model, mesh)
        optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
        step(model, optimizer, seed)
        runs.append((model, optimizer))
    (model, optimizer), (other, its_optimizer) = runs
    options = StateDictOptions(full_state_dict=full)
    weights, state = get_state_dict(model, optimizer, options=options)
    assert list(weights) == list(network(name).state_dict())
    dcp.save({"model": weights, "optimizer": state}, checkpoint_id=tmp_path)
    weights, state = get_state_dict(other, its_optimizer, options=options)
    loaded = {"model": weights, "optimizer": state}
    dcp.load(loaded, checkpoint_id=tmp_path)
    set_state_dict(
        *(other, its_optimizer),
        model_state_dict=loaded["model"],
        optim_state_dict=loaded["optimizer"],
        options=StateDictOptions(full_state_dict=full, broadcast_from_rank0=full),
    )
    other.criterion.load_state_dict(model.criterion.state_dict())  # the criterion is saved by who wants it
    assert torch.equal(step(other, its_optimizer, 5), step(model, optimizer, 5))
    assert torch.equal(step(other, its_optimizer, 6), step(model, optimizer, 6))


@pytest.mark.parametrize("name", ["test_vit", pytest.param("test_resnet", marks=pytest.mark.slow)])
def test_the_older_fsdp_saves_the_keys_of_timm(name: str, mesh: Any) -> None:
    plain = wrapper(name)
    losses = [step(plain, torch.optim.SGD(plain.parameters(), 0.1), number) for number in range(2)]
    model = FullyShardedDataParallel(wrapper(name), use_orig_params=True, device_id=torch.device("cpu"))
    assert [step(model, torch.optim.SGD(model.parameters(), 0.1), number) for number in range(2)] == losses
    state = model.state_dict()
    assert state.keys() == plain.state_dict().keys()
    assert all(torch.equal(value, plain.state_dict()[key]) for key, value in state.items())
    model.load_state_dict(state)
