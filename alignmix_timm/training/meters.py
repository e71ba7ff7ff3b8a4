"""What the optimizer steps of a run measure, summed on the device until it is asked for."""

import contextlib
import time
from collections.abc import Collection, Iterator
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from ..sinkhorn import Transport

UNREPEATABLE = ("time", "images_per_second", "data_wait", "peak_memory_mib")  # other from run to run


def of_all(found: Collection[int | str], accelerator: Accelerator) -> set[int | str]:
    """What was found in any process; call it in every process."""
    return set(gather_object(list(found)) if accelerator.num_processes > 1 else found)


def in_order(rows: Collection[int | str]) -> list[int | str]:
    """Numbers of rows, then names of files."""
    return sorted(rows, key=lambda row: (isinstance(row, str), row))


class Metrics:
    """Means over optimizer steps: losses by mode, share of modes, accuracy, alignment, and where the time goes.

    Shares, the accuracy and the time that was spent waiting for data are in percent. ``extra_passes`` is the number of
    forward and backward passes for saliency to each one that trains; absent where there were none.

    Args:
        micro_batch: Images of a forward pass.
        corrupt: Training rows that could not be read, to be reported; gets those of the other processes.
    """

    def __init__(self, micro_batch: int, corrupt: set[int | str]) -> None:
        self.micro_batch, self.corrupt = micro_batch, corrupt
        self._sums: dict[str, Tensor] = {}
        self._extra_passes = 0
        self.restart_clock()

    def add(
        self, mode: str, loss: Tensor, accuracy: Tensor | None, transport: Transport | None, extra_passes: int = 0
    ) -> None:
        """Count one forward pass, without an accuracy if it did not classify; waits for nothing."""
        values = {"loss": loss, f"loss_{mode}": loss}
        if accuracy is not None:
            values["mixed_acc"] = 100 * accuracy
        if mode in ("feat", "feat_swap") and transport is not None:
            values["marginal_error"] = transport.marginal_error.mean()
            values["effective_correspondences"] = transport.effective_correspondences.mean()
        for name, value in values.items():
            pair = torch.stack([value.detach().float(), torch.ones_like(value, dtype=torch.float32)])
            self._sums[name] = self._sums[name] + pair if name in self._sums else pair
        self._extra_passes += extra_passes

    def take(self, accelerator: Accelerator) -> dict[str, Any]:
        """Means over all processes since the last call; empty if there was no step. Modes agree in all processes."""
        names, sums = sorted(self._sums), self._sums
        self._sums = {}
        if not names:
            return {}
        table = accelerator.reduce(torch.stack([sums[name] for name in names]), "sum").tolist()
        record: dict[str, Any] = {}
        counts = {name: count for name, (_, count) in zip(names, table, strict=True)}
        for name, (total, count) in zip(names, table, strict=True):
            record[name] = total / count
            if name.startswith("loss_"):
                record[name.replace("loss", "share", 1)] = 100 * count / counts["loss"]
        seconds = time.perf_counter() - self._started
        record["images_per_second"] = counts["loss"] * self.micro_batch / seconds
        record["data_wait"] = 100 * self._waited / seconds
        if torch.cuda.is_available():
            record["peak_memory_mib"] = torch.cuda.max_memory_allocated() / 2**20
        if self._extra_passes:
            record["extra_passes"] = self._extra_passes * accelerator.num_processes / counts["loss"]
        self.corrupt.update(of_all(self.corrupt, accelerator))
        if self.corrupt:
            record["corrupt_rows"] = in_order(self.corrupt)
        self._extra_passes = 0
        self.restart_clock()
        return record

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Time spent waiting for data."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    def restart_clock(self) -> None:
        """Leave out the time since the last optimizer step: evaluation, or writing a checkpoint."""
        self._started, self._waited = time.perf_counter(), 0.0
