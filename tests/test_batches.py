"""Which rows each optimizer step sees, on any number of processes and workers."""

from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms

from alignmix_timm.training.config import TrainConfig
from alignmix_timm.training.data.batches import BatchPlan, plan_batches
from alignmix_timm.training.data.dataset import Key, Rows, StepSampler, StreamedRows, collate

PLAN = BatchPlan(rows=103, micro_batch=4, micros=4, seed=3)  # 6 steps an epoch, 7 rows over


def global_order(processes: int, start: int = 0, stop: int = 15) -> list[list[Key]]:
    """Micro-batches in the order of the run, put together from those of each process."""
    shares = [list(StepSampler(PLAN, start, stop, rank, processes)) for rank in range(processes)]
    return [micro for turn in zip(*shares, strict=True) for micro in turn]


def test_the_global_order_does_not_depend_on_the_processes() -> None:
    order = global_order(1)
    assert len(order) == 15 * 4
    assert global_order(2) == order
    assert global_order(4) == order
    assert global_order(1, 0, 4) + global_order(4, 4, 9) + global_order(2, 9, 15) == order


def test_an_epoch_sees_each_row_once_and_another_order_follows() -> None:
    order = global_order(1)
    epochs = [[key.row for micro in order[first : first + 24] for key in micro] for first in (0, 24)]
    assert all(len(set(rows)) == 96 for rows in epochs)
    assert epochs[0] != epochs[1]
    assert {key.epoch for micro in order[24:48] for key in micro} == {1}


def test_orders_are_uniform() -> None:
    firsts = np.array([next(iter(StepSampler(BatchPlan(5, 1, 1, seed), 0, 1)))[0].row for seed in range(2000)])
    counts = np.bincount(firsts, minlength=5)
    assert ((counts - 400) ** 2 / 400).sum() < 18.5  # chi-square, 4 degrees of freedom, p = 0.001


@pytest.fixture(scope="module")
def rows() -> Any:
    pixels = np.random.default_rng(0).integers(0, 256, (103, 12, 12, 3), dtype=np.uint8)
    features = datasets.Features(image=datasets.Image(), label=datasets.Value("int64"))
    columns = {"image": [Image.fromarray(image) for image in pixels], "label": list(range(103))}
    return datasets.Dataset.from_dict(columns, features=features).cast_column("image", datasets.Image(decode=False))


TRANSFORM = transforms.Compose([transforms.RandomCrop(12, padding=4), transforms.ToTensor()])


@pytest.mark.parametrize("workers", [1, 3])
def test_augmentation_does_not_depend_on_workers_or_processes(rows: Any, workers: int) -> None:
    examples = Rows(rows, "image", "label", TRANSFORM, "RGB", seed=3)

    def batches(processes: int, workers: int) -> list[torch.Tensor]:
        loaders = [
            DataLoader(
                examples,
                batch_sampler=StepSampler(PLAN, 0, 8, rank, processes),
                num_workers=workers,
                collate_fn=collate,
            )
            for rank in range(processes)
        ]
        return [batch["pixel_values"] for turn in zip(*loaders, strict=True) for batch in turn]

    plain = batches(1, 0)
    for found, expected in zip(batches(2, workers), plain, strict=True):
        assert torch.equal(found, expected)
    first_epoch, second_epoch = (examples[Key(epoch, 5)]["pixel_values"] for epoch in (0, 1))
    assert not torch.equal(first_epoch, second_epoch)


@pytest.mark.parametrize("shards", [8, 3])
@pytest.mark.parametrize(("processes", "workers"), [(1, 0), (2, 2), (3, 2)])
def test_streams_yield_each_row_once(rows: Any, shards: int, processes: int, workers: int) -> None:
    stream = rows.to_iterable_dataset(num_shards=shards).shuffle(seed=0, buffer_size=10)
    template = Rows([], "image", "label", TRANSFORM, "RGB")
    labels: list[int] = []
    for rank in range(processes):
        examples = StreamedRows(stream, template, rank, processes, passes=1)
        for batch in DataLoader(examples, 4, num_workers=min(workers, shards), collate_fn=collate):
            labels += batch["labels"].tolist()
    assert sorted(labels) == list(range(103))


def test_streams_go_on_in_another_order(rows: Any) -> None:
    stream = rows.to_iterable_dataset(num_shards=2).shuffle(seed=0, buffer_size=50)
    examples = iter(StreamedRows(stream, Rows([], "image", "label", TRANSFORM, "RGB"), 0, 1))
    passes = [[next(examples)["labels"] for _ in range(103)] for _ in range(2)]
    assert [sorted(labels) for labels in passes] == [list(range(103))] * 2
    assert passes[0] != passes[1]


@pytest.mark.parametrize(
    ("options", "processes", "saved", "message"),
    [
        (
            dict(batch_size=10),
            3,
            None,
            r"batch_size must be a multiple of micro_batch_size \* processes, got 10 and 3 \* 3",
        ),
        (dict(batch_size=8, micro_batch_size=3), 1, None, "batch_size must be a multiple"),
        (dict(batch_size=64), 1, None, "batch_size must be at most the training rows, got 64 of 50 rows"),
        (dict(batch_size=8, micro_batch_size=1), 1, None, "micro_batch_size must be >= 2 to mix"),
        (dict(batch_size=8, micro_batch_size=4), 1, BatchPlan(50, 8, 1, 0), "can only be resumed as it was begun"),
        (dict(batch_size=8), 1, BatchPlan(49, 8, 1, 0), "can only be resumed as it was begun"),
        (dict(batch_size=8, seed=1), 1, BatchPlan(50, 8, 1, 0), "can only be resumed as it was begun"),
    ],
)
def test_wrong_batches_are_named(
    options: dict[str, Any], processes: int, saved: BatchPlan | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        plan_batches(TrainConfig(data="a", **options), range(50), processes, saved)


def test_a_resumed_run_takes_its_own_micro_batches() -> None:
    begun = plan_batches(TrainConfig(data="a", batch_size=8), range(50), 2, None)
    assert (begun.micro_batch, begun.micros) == (4, 2)
    assert plan_batches(TrainConfig(data="a", batch_size=8), range(50), 1, begun) == begun


def test_broken_images_of_a_stream_are_reported(rows: Any) -> None:
    listed = [dict(row) for row in rows.select(range(6))]
    listed[2]["image"] = {"bytes": b"no image", "path": None}
    stream = datasets.Dataset.from_list(listed, features=rows.features).to_iterable_dataset()
    template = Rows([], "image", "label", TRANSFORM, "RGB", skip_corrupt=True)
    examples = list(StreamedRows(stream, template, 0, 1, passes=1))
    assert [example["labels"] for example in examples] == [0, 1, 3, 4, 5]
    assert [example["corrupt"] for example in examples] == [[], [], [2], [], []]


def test_broken_images_of_a_stream_go_by_their_files_and_are_not_looked_for_forever(rows: Any) -> None:
    image = {"bytes": b"no image", "path": "b.png"}
    listed = [{**row, "image": image} if row["label"] % 2 else dict(row) for row in rows.select(range(2))]
    template = Rows([], "image", "label", TRANSFORM, "RGB", skip_corrupt=True)

    def examples(listed: list[dict[str, Any]]) -> Any:
        stream = datasets.Dataset.from_list(listed, features=rows.features).to_iterable_dataset()
        return iter(StreamedRows(stream, template, 0, 1))

    endless = examples(listed)
    assert [next(endless)["corrupt"] for _ in range(3)] == [[], ["b.png"], ["b.png"]]
    with pytest.raises(ValueError, match="none of the 1 images in a share of the stream can be read"):
        next(examples(listed[1:]))


def test_streams_without_a_size_need_one() -> None:
    stream = datasets.IterableDataset.from_generator(lambda: iter([{"label": 1}]))
    config = TrainConfig(data="a", streaming=True, batch_size=8)
    with pytest.raises(ValueError, match="does not say how many rows it has: pass --train-samples"):
        plan_batches(config, stream, 1, None)
