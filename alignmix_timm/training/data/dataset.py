"""Rows of a dataset decoded and as examples, in an order and augmented as the seed says, whatever reads them."""

import io
import os
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from datasets.distributed import split_dataset_by_node
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Sampler, get_worker_info

from ...seeds import Stream, generator, seed_all
from .batches import BatchPlan

Transform = Callable[[Image.Image], Tensor]


class Key(NamedTuple):
    """A row as it is seen in one epoch: what its augmentation is seeded with."""

    epoch: int
    row: int


class StepSampler(Sampler[list[Key]]):
    """The micro-batches of one process, from one optimizer step of the run to another.

    Step s takes micro-batches g = 0, 1, ..., micros - 1 of its global batch; the process takes g = rank,
    rank + processes, ... To resume is to start at the saved step.
    """

    def __init__(self, plan: BatchPlan, start: int, stop: int, rank: int = 0, processes: int = 1) -> None:
        self.plan, self.start, self.stop, self.rank, self.processes = plan, start, stop, rank, processes

    def __iter__(self) -> Iterator[list[Key]]:
        rows, micro_batch, micros, seed = self.plan
        order, ordered = None, -1
        for step in range(self.start, self.stop):
            epoch, place = divmod(step, self.plan.steps_per_epoch)
            if epoch != ordered:
                order, ordered = generator(seed, Stream.ORDER, epoch).permutation(rows), epoch
            for micro in range(self.rank, micros, self.processes):
                first = (place * micros + micro) * micro_batch
                assert order is not None
                yield [Key(epoch, int(row)) for row in order[first : first + micro_batch]]

    def __len__(self) -> int:
        return (self.stop - self.start) * (self.plan.micros // self.processes)


class Rows(Dataset):
    """Rows of a map-style dataset, decoded and transformed.

    ``rows[Key(epoch, row)]`` seeds the augmentation with (seed, epoch, row). A row whose image cannot be read is an
    error that names it; with ``skip_corrupt`` the next readable row stands in for it, or, in evaluation, none.
    """

    def __init__(
        self,
        rows: Any,
        image: str,
        label: str,
        transform: Transform,
        mode: str,
        seed: int = 0,
        skip_corrupt: bool = False,
        replace: bool = True,
    ) -> None:
        self.rows, self.image, self.label, self.transform = rows, image, label, transform
        self.mode, self.seed, self.skip_corrupt, self.replace = mode, seed, skip_corrupt, replace

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: Key) -> dict[str, Any]:
        corrupt: list[int] = []
        for offset in range(len(self) if self.replace else 1):
            row = (key.row + offset) % len(self)
            example = self.rows[row]
            try:
                picture = read_image(example[self.image], self.mode)
            except OSError as error:
                corrupt.append(row)
                if not self.skip_corrupt:
                    raise ValueError(
                        f"the image of row {row} cannot be read: {error}. Pass --skip-corrupt to go on without it."
                    ) from None
                continue
            seed_all(self.seed, Stream.AUGMENT, key.epoch, row)
            pixels = self.transform(picture)
            return {"pixel_values": pixels, "labels": example[self.label], "row": row, "corrupt": corrupt}
        return {"corrupt": corrupt}


class StreamedRows(IterableDataset):
    """Rows of a streaming dataset, sharded by process and worker; again and again if ``passes`` is None.

    Each pass yields every row once in one process and worker. Rows are shuffled anew in each, within a buffer; a
    process or worker with fewer rows starts its next pass earlier. The order depends on their number, and a run resumed
    at step ``start`` begins a pass of its own: only map-style datasets promise more.
    """

    def __init__(
        self, stream: Any, rows: Rows, rank: int, processes: int, passes: int | None = None, start: int = 0
    ) -> None:
        self.stream = split_dataset_by_node(stream, rank, processes)
        self.rows, self.rank, self.passes, self.start = rows, rank, passes, start

    def __iter__(self) -> Iterator[dict[str, Any]]:
        rows, worker = self.rows, get_worker_info()
        place = self.start, self.rank, 0 if worker is None else worker.id
        current, found, corrupt = 0, True, list[int]()
        while found and current != self.passes:
            self.stream.set_epoch(current)
            found = False
            for count, example in enumerate(self.stream):
                found = True
                try:
                    picture = read_image(example[rows.image], rows.mode)
                except OSError as error:
                    if not rows.skip_corrupt:
                        raise ValueError(
                            f"image {count} of the stream cannot be read: {error}. Pass --skip-corrupt."
                        ) from None
                    corrupt.append(count)
                    continue
                seed_all(rows.seed, Stream.AUGMENT, current, *place, count)
                pixels = rows.transform(picture)
                yield {"pixel_values": pixels, "labels": example[rows.label], "row": count, "corrupt": corrupt}
                corrupt = []
            current += 1


def read_image(value: Any, mode: str) -> Image.Image:
    """Decode the image of an undecoded column, upright, as ``RGB`` or ``L``.

    Raises:
        OSError: there is no image, or it cannot be read.
    """
    if value is None or not (value.get("bytes") or value.get("path")):
        raise OSError("it is missing")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # palettes with transparency, odd EXIF data
            picture: Image.Image = Image.open(io.BytesIO(value["bytes"]) if value.get("bytes") else value["path"])
            picture = ImageOps.exif_transpose(picture)
            if picture.mode.startswith("I;16"):
                picture = picture.point(lambda level: level / 256).convert("L")
            return picture.convert(mode)
    except (SyntaxError, ValueError, Image.DecompressionBombError) as error:  # what PIL raises for broken files
        raise OSError(str(error)) from error


def collate(examples: list[dict[str, Any]]) -> dict[str, Any]:
    """Batch: ``pixel_values`` [B, C, H, W], ``labels`` [B], ``rows`` [B], and the ``corrupt`` rows left out.

    A batch of which no row can be read holds only ``corrupt``.
    """
    batch: dict[str, Any] = {"corrupt": [row for example in examples for row in example["corrupt"]]}
    if readable := [example for example in examples if "pixel_values" in example]:
        batch["pixel_values"] = torch.stack([example["pixel_values"] for example in readable])
        batch["labels"] = torch.tensor([example["labels"] for example in readable])
        batch["rows"] = torch.tensor([example["row"] for example in readable])
    return batch


def leave_group(worker: int) -> None:
    """Let the main process decide when a data worker ends: signals reach its whole process group."""
    os.setpgid(0, 0)
