"""The batches of a run: for training from any step on, and for evaluation."""

import functools
import multiprocessing
import os
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from ...seeds import Stream, generator
from ..config import TrainConfig
from .batches import BatchPlan
from .cache import MEGABYTE, ImageCache, decoded_sizes
from .dataset import Key, Rows, StepSampler, StreamedRows, collate, leave_group
from .device import DeviceBatches
from .erasing import Erasing
from .splits import Splits
from .stored_rows import StoredRows
from .transforms import eval_transform, train_transform

MOST_WORKERS = 8  # by default: each holds memory of its own, and takes time to start
_STREAM_WORKERS = 4  # by default, on every machine: the order of a stream depends on them


def share_of_cores(processes: int) -> int:
    """The data workers that this machine has cores for, in one of these processes: at least 1, at most 8."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    on_this_machine = int(os.environ.get("LOCAL_WORLD_SIZE", processes))  # set by accelerate launch and torchrun
    return min(max(cores // on_this_machine, 1), MOST_WORKERS)


class Loaders:
    """Makes the loaders of one process. Nothing is sharded by Accelerate: each process takes its own rows."""

    def __init__(
        self,
        config: TrainConfig,
        splits: Splits,
        data: dict[str, Any],
        plan: BatchPlan,
        accelerator: Accelerator,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> None:
        self.config, self.plan = config, plan
        self.rank, self.processes = accelerator.process_index, accelerator.num_processes
        default = _STREAM_WORKERS if config.streaming else share_of_cores(self.processes)
        self.workers = default if config.workers is None else config.workers
        self.data, self.device, self.memory_format = data, accelerator.device, memory_format
        mode = "L" if config.in_chans == 1 else "RGB"
        columns = (splits.image, splits.label)
        self.stream = splits.train if config.streaming else None
        rows: Any = [] if config.streaming else StoredRows(splits.train, *columns)
        shared: dict[str, Any] = dict(mode=mode, skip_corrupt=config.skip_corrupt, max_pixels=config.max_pixels)
        self.rows = Rows(rows, *columns, train_transform(data, config, normalize=False), seed=config.seed, **shared)
        self.rows.erasing = Erasing(config.reprob) if config.reprob else None
        self.rows.defer = config.jpeg_scaling
        test = eval_transform(data, normalize=False)
        self.test = Rows(StoredRows(splits.test, *columns), *columns, test, replace=False, **shared)
        if config.cache_images:
            self._cache([self.test] if config.eval_only else [self.test, self.rows], config.cache_images * MEGABYTE)

    def train(self, start: int, stop: int) -> Iterator[dict[str, Any]]:
        """The micro-batches of this process, from one optimizer step to another."""
        if self.stream is not None:
            return iter(self._streamed(start))
        sampler = StepSampler(self.plan, start, stop, self.rank, self.processes)
        return iter(self._loader(self.rows, self.workers, batch_sampler=sampler))

    def evaluation(self) -> DeviceBatches:
        """Every row of the evaluation split in one process and once, in batches of the micro-batch size."""
        return self._evaluation

    @functools.cached_property
    def _evaluation(self) -> DeviceBatches:
        keys = [Key(0, row) for row in range(self.rank, len(self.test), self.processes)]
        options: dict[str, Any] = dict(batch_size=self.plan.micro_batch, sampler=keys)
        return self._loader(self.test, self.workers, persistent_workers=self.workers > 0, **options)

    def _streamed(self, start: int) -> DeviceBatches:
        assert self.stream is not None
        shards, readers = self.stream.num_shards, self.processes * max(self.workers, 1)
        per_process = shards // self.processes if shards % self.processes == 0 else shards
        if shards % readers and self.rank == 0:
            warnings.warn(
                f"{shards} shards do not divide among {self.processes} processes x {self.workers} workers: some "
                "read more rows than others, and begin their next pass later.",
                stacklevel=2,
            )
        seed = int(generator(self.config.seed, Stream.ORDER, start).integers(2**31))
        stream = self.stream.shuffle(seed=seed, buffer_size=self.config.shuffle_buffer)
        if start:
            warnings.warn(
                "a resumed stream starts a new pass over the data: only map-style data resume exactly.", stacklevel=2
            )
        rows = StreamedRows(stream, self.rows, self.rank, self.processes, start=start)
        workers = min(self.workers, per_process)
        return self._loader(rows, workers, batch_size=self.plan.micro_batch, drop_last=True)

    def _loader(self, rows: Any, workers: int, **options: Any) -> DeviceBatches:
        loader = DataLoader(
            rows,
            num_workers=workers,
            collate_fn=collate,
            pin_memory=self.device.type == "cuda",
            worker_init_fn=leave_group,
            **options,
        )
        return DeviceBatches(loader, self.device, self.data, self.memory_format)

    def _cache(self, parts: list[Rows], budget: int) -> None:
        """Give each part a cache, within as many bytes for all of them.

        Raises:
            ValueError: they need more; or data workers do not share memory.
        """
        if self.workers and multiprocessing.get_start_method() != "fork":
            raise ValueError(
                "cache_images needs data workers that are forked, and share memory; this system starts them by "
                f"{multiprocessing.get_start_method()}. Pass --workers 0, or leave it out."
            )
        for part in parts:
            sizes = decoded_sizes(part.rows, part.image, part.mode, part.max_pixels, budget)
            part.cache = ImageCache(sizes, part.mode)
            budget -= int(sizes.sum())
