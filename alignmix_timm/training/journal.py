"""What a run reports: ``metrics.jsonl``, trackers, and a progress bar or plain lines."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from tqdm.auto import tqdm

from .config import TrainConfig
from .console import epoch_line, train_line


class Journal:
    """Writes in the main process only. Each record is a line of ``metrics.jsonl`` with its ``kind`` and ``step``."""

    def __init__(self, folder: Path, accelerator: Accelerator, total: int, start: int) -> None:
        self.accelerator = accelerator
        self.path = folder / "metrics.jsonl"
        self.main = accelerator.is_main_process
        self._epoch: list[dict[str, Any]] = []  # its records of training
        self._tracked: set[tuple[str, int]] = set()  # by a run that was killed, after the checkpoint it is resumed from
        if self.main:
            self._keep_until(start, total)
        self._first, self._began = start, time.monotonic()
        self.bar = tqdm(total=total, initial=start, unit="step", disable=None if self.main else True, leave=False)

    def write(self, kind: str, step: int, record: dict[str, Any]) -> None:
        """Record and track; print what is of training."""
        if not self.main:
            return
        if (kind, step) not in self._tracked:
            numbers = {name: value for name, value in record.items() if isinstance(value, int | float)}
            self.accelerator.log({f"{kind}/{name}": value for name, value in numbers.items()}, step=step)
        self.keep(kind, step, {**record, "time": round(time.time(), 1)})
        if kind == "train":
            self._epoch.append({"step": step, **record})
            passed = time.monotonic() - self._began
            left = passed / max(step - self._first, 1) * (self.bar.total - step)
            self.say(train_line(record, step, self.bar.total, passed, left))

    def end_epoch(self, epoch: int, config: TrainConfig, result: dict[str, float], best: dict[str, float]) -> None:
        """Print the mean of an epoch, and its evaluation, if there was one.

        Args:
            epoch: Those done.
            result: Empty without an evaluation.
            best: The best evaluation so far, with its step.
        """
        if not self.main:
            return
        steps = self.bar.total // config.epochs
        done, loss, seconds = (epoch - 1) * steps, 0.0, 0.0
        for record in self._epoch:
            count, done = record["step"] - done, max(record["step"], done)
            if count > 0:  # none of an earlier epoch
                loss += record["loss"] * count / steps
                seconds += count * config.batch_size / record["images_per_second"]
        self._epoch = []
        self.say(epoch_line(epoch, config.epochs, loss, seconds, result, best.get("step") == done))

    def keep(self, kind: str, step: int, record: dict[str, Any]) -> None:
        """Record only."""
        if self.main:
            with self.path.open("a") as file:
                file.write(json.dumps({"kind": kind, "step": step, **record}) + "\n")

    def say(self, text: str) -> None:
        """A line for the reader."""
        if self.main:
            self.bar.write(text)
            sys.stdout.flush()

    def advance(self) -> None:
        """One step more."""
        self.bar.update()

    def close(self) -> None:
        """End the bar."""
        self.bar.close()

    def _keep_until(self, step: int, total: int) -> None:
        """Drop what a run that was killed wrote after the checkpoint it is resumed from, and a line cut short.

        The effect of alignment is measured after no checkpoint at the start, and after the last one at the end.
        """
        if not self.path.exists():
            return
        records = read_journal(self.path)
        last = {"effect": step - 1} if step in (0, total) else {}
        kept, dropped = list[dict[str, Any]](), list[dict[str, Any]]()
        for record in records:
            (kept if record["step"] <= last.get(record["kind"], step) else dropped).append(record)
        temporary = self.path.with_name(".metrics.jsonl")
        with temporary.open("w") as file:
            file.writelines(json.dumps(record) + "\n" for record in kept)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path)
        self._tracked = {(record["kind"], record["step"]) for record in dropped}
        self._epoch = [record for record in kept if record["kind"] == "train"]


def check_trackers(config: TrainConfig) -> None:
    """Raise ValueError for a tracker that is not installed; Accelerate would leave it out."""
    installed = {str(tracker.value) for tracker in get_available_trackers()}
    missing = [tracker for tracker in config.trackers if tracker not in installed]
    if missing:
        raise ValueError(f"trackers must be installed, {missing} are not. There are: {installed}.")


def read_journal(path: Path) -> list[dict[str, Any]]:
    """The records of a ``metrics.jsonl``; a last line that was cut short is left out."""
    records = []
    for line in path.read_text().splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records
