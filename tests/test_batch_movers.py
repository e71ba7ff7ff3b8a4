"""What frameworks do to a batch on its way to the model: move it, cast it, join and split it."""

import os
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.multiprocessing as mp
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DataLoaderConfiguration, concatenate, find_batch_size, recursively_apply, send_to_device
from launcher import free_port
from test_collate import same
from torch.distributed.utils import _apply_to_tensors
from torch.utils._pytree import tree_map
from torch.utils.data import DataLoader, IterableDataset
from torch.utils.data._utils.pin_memory import pin_memory

from alignmix_timm import AlignMixCollator, AlignMixModel, draw

ROWS = [(torch.randn(3, 64, 64), row % 4) for row in range(8)]
NOT_SPLIT = r"not to be joined or split: with Accelerate and .* dispatch_batches=False and split_batches=False"


def loader(rows: Any = ROWS) -> DataLoader:
    return DataLoader(rows, batch_size=4, collate_fn=AlignMixCollator(seed=0))


class Stream(IterableDataset):
    def __iter__(self) -> Any:
        yield from ROWS


def moved_by_hand(batch: dict[str, Any]) -> dict[str, Any]:
    return {name: value.to("cpu", non_blocking=True) for name, value in batch.items()}


def halved(value: Any) -> Any:
    return value.to(torch.bfloat16) if isinstance(value, torch.Tensor) and value.is_floating_point() else value


MOVERS = {
    "by hand": moved_by_hand,
    "send_to_device": lambda batch: send_to_device(batch, torch.device("cpu"), non_blocking=True),
    "pin_memory": lambda batch: pin_memory({"mix": batch["mix"]}),
    "tree_map": lambda batch: tree_map(halved, batch),
    "FSDP1": lambda batch: _apply_to_tensors(halved, batch),
}


@pytest.mark.parametrize("move", MOVERS.values(), ids=MOVERS)
def test_what_moves_or_casts_a_batch_leaves_its_draw_as_it_is(move: Any) -> None:
    collator = AlignMixCollator(seed=0)
    for step in range(2):  # nothing was drawn on the way
        batch = collator(ROWS[:4])
        assert find_batch_size(batch) == 4
        found = move(batch)
        assert found["mix"] is batch["mix"]
        assert same(found["mix"], draw(4, 0, step))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_fabric_trains_with_the_draws_of_the_collator(precision: str) -> None:
    fabric = pytest.importorskip("lightning_fabric").Fabric(accelerator="cpu", precision=precision)
    torch.manual_seed(0)
    model = fabric.setup(AlignMixModel(timm.create_model("test_resnet", num_classes=4), input_size=(3, 64, 64)))
    batches = fabric.setup_dataloaders(loader())
    for step, batch in enumerate([*batches, *batches]):
        output = model(**batch)
        fabric.backward(output.loss)
        assert output.loss.isfinite()
        assert same(batch["mix"], draw(4, 0, step))
        assert batch["mix"].lam.dtype == torch.float32


def test_accelerate_is_told_not_to_join_or_broadcast_batches() -> None:
    batch = AlignMixCollator(seed=0)(ROWS[:4])
    with pytest.raises(TypeError, match=NOT_SPLIT):
        concatenate([batch, batch])
    with pytest.raises(TypeError, match=NOT_SPLIT):
        recursively_apply(torch.clone, batch, error_on_other_type=True)


def train_in(rank: int, port: int, folder: Path, dispatch: bool, split: bool) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1")
    os.environ.update(MASTER_PORT=str(port), ACCELERATE_USE_CPU="true")
    AcceleratorState._reset_state(reset_partial_state=True)  # that of the process of the tests
    config = DataLoaderConfiguration(dispatch_batches=dispatch, split_batches=split)
    batches = Accelerator(cpu=True, dataloader_config=config).prepare(loader(Stream()))
    torch.save([batch["mix"].params for _ in range(2) for batch in batches], folder / f"{rank}.pt")


@pytest.mark.parametrize(
    ("dispatch", "split"), [(False, False), (True, False), pytest.param(True, True, marks=pytest.mark.slow)]
)
def test_a_stream_on_two_processes(tmp_path: Path, dispatch: bool, split: bool) -> None:
    """Accelerate and the Trainer dispatch the batches of a stream from the first process, unless told otherwise."""
    arguments = (free_port(), tmp_path, dispatch, split)
    if dispatch:
        with pytest.raises(Exception, match=NOT_SPLIT):
            mp.start_processes(train_in, arguments, nprocs=2, start_method="fork")
        return
    mp.start_processes(train_in, arguments, nprocs=2, start_method="fork")
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=False)
        assert len(found) == 2
        assert all(same(mix, draw(4, 0, step, rank)) for step, mix in enumerate(found))
