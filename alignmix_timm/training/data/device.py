"""Batches of data workers, made ready on the device: copied while it computes, normalised and erased there."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ...points.normalization import normalize
from .erasing import erase


class DeviceBatches:
    """The batches of a loader on a device, their images as the network reads them.

    On a GPU a batch is copied and normalised beside the computation on the one before, on a stream of its own.

    Args:
        loader: Of batches as :func:`alignmix_timm.training.data.dataset.collate` makes them, with bytes as images.
        device: Of the network.
        data: ``mean`` and ``std`` of each channel.
        memory_format: Of the images.
    """

    def __init__(
        self, loader: DataLoader, device: torch.device, data: dict[str, Any], memory_format: torch.memory_format
    ) -> None:
        self.loader, self.device, self.memory_format = loader, device, memory_format
        self.mean, self.std = data["mean"], data["std"]

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        if self.device.type == "cuda":
            return self._ahead()
        return map(self._prepared, self.loader)

    def _ahead(self) -> Iterator[dict[str, Any]]:
        """Each batch, after the copy of the next has been begun."""
        stream, before = torch.cuda.Stream(self.device), None
        for loaded in self.loader:
            with torch.cuda.stream(stream):
                following = self._prepared(loaded), stream.record_event()
            if before is not None:
                yield _handed_over(*before)
            before = following
        if before is not None:
            yield _handed_over(*before)

    def _prepared(self, loaded: dict[str, Any]) -> dict[str, Any]:
        batch = {
            name: value.to(self.device, non_blocking=True) if isinstance(value, Tensor) else value
            for name, value in loaded.items()
            if name != "erased"
        }
        if "pixel_values" in batch:
            batch["pixel_values"] = normalize(batch["pixel_values"], self.mean, self.std, self.memory_format)
            if "erased" in loaded:
                erase(batch["pixel_values"], loaded["erased"])
        return batch


def _handed_over(batch: dict[str, Any], ready: torch.cuda.Event) -> dict[str, Any]:
    """The batch for the stream that computes: it waits for the copy, and its memory is not reused before it is done."""
    stream = torch.cuda.current_stream()
    stream.wait_event(ready)
    for value in batch.values():
        if isinstance(value, Tensor):
            value.record_stream(stream)
    return batch
