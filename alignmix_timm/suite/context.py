"""What a part of the evaluation is given: the model, the rows, and a way to go over them in all processes."""

import argparse
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from ..training.data.dataset import leave_group
from .data import Data, Images
from .subject import Subject


class Pixels(Protocol):
    """Images by number: what the rows of a set of any origin look like to a part."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int) -> Tensor:
        """Pixels [C, H, W] in [0, 1]."""


@dataclass
class Context:
    """The model and the rows of one evaluation.

    Attributes:
        subject: The model, on the device, with all that is known of it.
        data: The rows as they are stored, with all columns.
        images: The same rows as pixels, as the model evaluates them.
        labels: Class indices of all rows, [N] on the CPU; None where the data have none.
        options: Of the command line, with those that parts added.
        accelerator: Of the processes.
        batch_size: Images of a forward pass in each process.
        workers: Data workers of each process.
    """

    subject: Subject
    data: Data
    images: Images
    labels: Tensor | None
    options: argparse.Namespace
    accelerator: Accelerator = field(repr=False)
    batch_size: int = 64
    workers: int = 0

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    @cached_property
    def logits(self) -> Tensor:
        """Logits of the unchanged images of all rows, [N, C] in fp32 on the CPU; computed once for all parts.

        All processes must ask for them at the same time.
        """
        with torch.no_grad():
            found = self.over(self.images, lambda pixels, rows: {"logits": self.subject.model(pixels)}, "logits")
        broken = int(found["logits"].isnan().any(1).sum())
        if broken:
            self.say(f"The logits of {broken} of {len(self.images)} images are NaN.")
        return found["logits"]

    def over(
        self, images: Pixels, measure: Callable[[Tensor, Tensor], dict[str, Tensor]], what: str
    ) -> dict[str, Tensor]:
        """Measure every image once, in batches and processes; all processes must call it alike.

        Args:
            images: The rows, or those of another set.
            measure: From pixels [B, C, H, W] on the device and their row numbers [B] on the CPU, to named values
                [B, ...]. Those of a row must depend on its pixels and its number alone, not on the rest of its batch.
            what: For the progress bar.

        Returns:
            The values of all rows, [N, ...] on the CPU and in the order of rows, the same in all processes.
        """
        rank, processes = self.accelerator.process_index, self.accelerator.num_processes
        each = -(-len(images) // processes)
        mine = [(rank + place * processes) % len(images) for place in range(each)]  # in the last place perhaps again
        batches = [mine[first : first + self.batch_size] for first in range(0, each, self.batch_size)]
        loader: DataLoader[Tensor] = DataLoader(
            images,  # type: ignore[arg-type]  # anything with a length and items
            batch_sampler=batches,
            num_workers=min(self.workers, len(batches)) if len(batches) > 1 else 0,
            collate_fn=torch.stack,
            pin_memory=self.device.type == "cuda",
            worker_init_fn=leave_group,
        )
        shown = tqdm(loader, desc=what, unit="batch", disable=not self.accelerator.is_main_process, leave=False)
        measured = [
            {name: value.detach().cpu() for name, value in measure(pixels.to(self.device), torch.tensor(rows)).items()}
            for rows, pixels in zip(batches, shown, strict=True)
        ]
        return {
            name: self._in_order(torch.cat([batch[name] for batch in measured]), len(images)) for name in measured[0]
        }

    def say(self, line: str) -> None:
        """Print a line for the reader, once for all processes."""
        if self.accelerator.is_main_process:
            tqdm.write(line)

    def _in_order(self, values: Tensor, rows: int) -> Tensor:
        """Values of process r at place i belong to row i * processes + r; those beyond the last row are left out."""
        processes = self.accelerator.num_processes
        if processes == 1:
            return values
        gathered = self.accelerator.gather(values.to(self.device)).cpu()
        return gathered.view(processes, *values.shape).transpose(0, 1).flatten(0, 1)[:rows]


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Without TF32, in which the logits of GPUs differ from those of CPUs in the third digit."""
    backends: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before, precision = [backend.allow_tf32 for backend in backends], torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    for backend in backends:
        backend.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        for backend, allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = allowed
