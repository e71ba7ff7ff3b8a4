"""Rows of a dataset decoded and as examples, in an order and augmented as the seed says, whatever reads them."""

import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from datasets.distributed import split_dataset_by_node
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Sampler, default_collate, get_worker_info

from ...points.images import MAX_PIXELS, TooManyPixelsError, read_image
from ...seeds import Stream, generator, seed_cpu
from .batches import BatchPlan
from .cache import ImageCache
from .erasing import Erasing

_SEE_WHY = "leave out --skip-corrupt to see why the first cannot."

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

    ``rows[Key(epoch, row)]`` seeds the augmentation with (seed, epoch, row). A row whose image cannot be read or
    augmented is an error that names it; with ``skip_corrupt`` the next one stands in for it, or, in evaluation, none.

    Attributes:
        erasing: Draws what is erased on the device, as ``erased`` of an example; None for nothing.
        cache: Keeps decoded images; None decodes them each time.
        defer: Whether the transform reads the pixels of JPEGs, see :func:`read_image`.
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
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        self.rows, self.image, self.label, self.transform = rows, image, label, transform
        self.mode, self.seed, self.skip_corrupt, self.replace = mode, seed, skip_corrupt, replace
        self.max_pixels = max_pixels
        self.erasing: Erasing | None = None
        self.cache: ImageCache | None = None
        self.defer = False

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: Key) -> dict[str, Any]:
        corrupt: list[int | str] = []
        for offset in range(len(self) if self.replace else 1):
            row = (key.row + offset) % len(self)
            content = self.rows[row]
            file = _file(content[self.image])
            embedded = file and content[self.image].get("bytes")  # then its name may be that of others, too
            name = f"{file} (row {row})" if embedded else file or row
            if (example := self.example(content, name, key.epoch, row, kept=row)) is not None:
                return {**example, "row": row, "corrupt": corrupt}
            corrupt.append(name)
        if self.replace:
            raise ValueError(f"none of the {len(self)} images can be read: {_SEE_WHY}")
        return {"corrupt": corrupt}

    def example(
        self, content: dict[str, Any], name: int | str, *place: int, kept: int | None = None
    ) -> dict[str, Any] | None:
        """``pixel_values``, ``labels`` and ``erased`` of a row; None if its image is corrupt and may be skipped.

        Args:
            content: The row, its image undecoded.
            name: Its number or file, for messages.
            place: What, with the seed of the run, seeds the augmentation.
            kept: Its number in the cache.

        Raises:
            ValueError: the image cannot be read or augmented, and must not be skipped.
        """
        verb = "read"
        try:
            picture = self._picture(content[self.image], kept)
            verb = "augmented"
            seed_cpu(self.seed, Stream.AUGMENT, *place)
            example = {"pixel_values": self.transform(picture), "labels": content[self.label]}
            if self.erasing is not None:
                example["erased"] = self.erasing.draw(*example["pixel_values"].shape[1:])
            return example
        except MemoryError:
            raise
        except Exception as error:  # of many kinds: augmentations raise what they like
            if self.skip_corrupt:
                return None
            verb = "read" if isinstance(error, OSError) else verb  # by an augmentation that was left to read it
            which = f"of row {name}" if isinstance(name, int) else name
            larger = ", or if you trust it, raise --max-pixels" if isinstance(error, TooManyPixelsError) else ""
            raise ValueError(
                f"the image {which} cannot be {verb}: {' '.join(str(error).split())}. Pass --skip-corrupt to go on "
                f"without it{larger}."
            ) from error

    def _picture(self, value: Any, kept: int | None) -> Image.Image:
        """The decoded image, from the cache if it is there."""
        if self.cache is None or kept is None:
            return read_image(value, self.mode, self.max_pixels, self.defer)
        if (found := self.cache.find(kept)) is None:
            found = read_image(value, self.mode, self.max_pixels)
            self.cache.keep(kept, found)
        return found


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
        worker = get_worker_info()
        place = self.start, self.rank, 0 if worker is None else worker.id
        current, found, corrupt = 0, True, list[int | str]()
        while found and current != self.passes:
            self.stream.set_epoch(current)
            found = False
            for count, content in enumerate(self.stream):
                name = _file(content[self.rows.image]) or count
                if (example := self.rows.example(content, name, current, *place, count)) is None:
                    corrupt.append(name)
                    continue
                found = True
                yield {**example, "row": count, "corrupt": corrupt}
                corrupt = []
            if corrupt and not found:
                raise ValueError(f"none of the {len(corrupt)} images in a share of the stream can be read: {_SEE_WHY}")
            current += 1


def _file(image: Any) -> str | None:
    """Name of the file of an undecoded image, where it is known."""
    return image.get("path") if image else None


def collate(examples: list[dict[str, Any]]) -> dict[str, Any]:
    """Batch: ``pixel_values`` [B, C, H, W], ``labels`` [B], ``rows`` [B], and the ``corrupt`` rows left out.

    With random erasing also ``erased`` [B, 5], see :meth:`Erasing.draw`. A data worker writes the images into memory
    that it shares with the main process: they are not copied again on the way there.

    A batch of which no row can be read holds only ``corrupt``.
    """
    batch: dict[str, Any] = {"corrupt": [row for example in examples for row in example["corrupt"]]}
    if readable := [example for example in examples if "pixel_values" in example]:
        batch["pixel_values"] = default_collate([example["pixel_values"] for example in readable])
        batch["labels"] = torch.tensor([example["labels"] for example in readable])
        batch["rows"] = torch.tensor([example["row"] for example in readable])
        if "erased" in readable[0]:
            batch["erased"] = torch.tensor([example["erased"] for example in readable])
    return batch


def leave_group(worker: int) -> None:
    """Let the main process decide when a data worker ends: signals reach its whole process group."""
    os.setpgid(0, 0)
