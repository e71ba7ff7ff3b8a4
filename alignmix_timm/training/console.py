"""The lines that a run prints: each within 120 columns, shares in percent, times as h:mm:ss."""

import textwrap
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from ..publishing.provenance import rows_of
from .config import TrainConfig
from .data.batches import BatchPlan
from .data.splits import Splits

WIDTH = 120
_LISTED = 5


def wrapped(text: str) -> str:
    """The text on as many lines as it needs."""
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def duration(seconds: float) -> str:
    """Such as 0:07, 12:30, or 1:02:30."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def start_lines(config: TrainConfig, splits: Splits, plan: BatchPlan, step: int, accelerator: Accelerator) -> list[str]:
    """What is about to be trained, on what, and how."""
    processes = accelerator.num_processes
    return [
        wrapped(
            f"{config.model}, {_classes(splits.names)}: {plan.rows} training images of {data_of(config)}, "
            f"{_evaluated(splits)}."
        ),
        *data_lines(splits),
        wrapped(
            f"Steps {step} to {config.epochs * plan.steps_per_epoch}, {plan.steps_per_epoch} an epoch, of "
            f"{plan.batch} images: {plan.micros} x {plan.micro_batch} on {processes} "
            f"{accelerator.device.type} process{'es' if processes > 1 else ''}, mixed precision "
            f"{accelerator.mixed_precision}."
        ),
    ]


def evaluation_lines(config: TrainConfig, splits: Splits, checkpoint: str) -> list[str]:
    """What a checkpoint is about to be evaluated on."""
    place = config.val_dir or data_of(config)
    return [wrapped(f"{checkpoint}, {_classes(splits.names)}, on {place}: {_evaluated(splits)}."), *data_lines(splits)]


def data_of(config: TrainConfig) -> str:
    """The place or name of the training data."""
    return config.train_dir or config.data or "synthetic data"


def data_lines(splits: Splits) -> list[str]:
    """What was found in the data, and chosen among it; nothing of synthetic images."""
    if splits.split is None:
        return []
    label = f"Labels: {splits.label}"
    if splits.other_labels:
        label += f" (not {listed(splits.other_labels)}: --label-column)"
    parts = [label, *([f"splits: {listed(splits.found)}"] if splits.found else [])]
    lines = [wrapped("; ".join(parts) + ".")]
    if splits.left_out:
        lines.append(wrapped(f"Not used: {listed(splits.left_out)}."))
    return lines


def listed(names: list[str]) -> str:
    """The first of them, and how many more there are."""
    return ", ".join(names[:_LISTED]) + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")


def _classes(names: list[str]) -> str:
    return f"{len(names)} class{'es' if len(names) > 1 else ''} ({listed(names)})"


def _evaluated(splits: Splits) -> str:
    rows = rows_of(splits.split, splits.held_out) if splits.split else "random images"
    return f"{len(splits.test)} for evaluation ({rows}{_missing(splits)})"


def _missing(splits: Splits) -> str:
    """The classes of which no row was held out, to be said: accuracy does not count them."""
    if not splits.held_out:
        return ""
    present = set(splits.test[splits.label])
    missing = [name for label, name in enumerate(splits.names) if label not in present]
    return f"; none of {listed(missing)}" if missing else ""


def train_line(record: dict[str, Any], step: int, total: int, passed: float, left: float) -> str:
    """The means since the last line, and the time in seconds that passed and is left."""
    unmixed = {"share_none", "share_clean"}
    mixed = any(name.startswith("share_") and name not in unmixed for name in record)
    parts = [f"loss {record['loss']:.3f}"]
    if "mixed_acc" in record:
        parts.append(f"{'mixed ' if mixed else ''}top-1 {record['mixed_acc']:.1f} %")
    parts += [f"lr {record['lr']:.3g}", f"{record['images_per_second']:.0f} img/s"]
    if "corrupt_rows" in record:
        parts.append(f"{len(record['corrupt_rows'])} broken images")
    parts.append(f"in {duration(passed)}, {duration(left)} left")
    return f"step {step}/{total}, epoch {record['epoch']:.2f}: {', '.join(parts)}"


def epoch_line(epoch: int, epochs: int, loss: float, seconds: float, result: dict[str, float], best: bool) -> str:
    """An epoch: the mean training loss, the time of training, and what was evaluated, if it was.

    Args:
        result: Of the evaluation, also of the EMA weights where there are any; empty without one.
        best: Whether it is the best so far.
    """
    line = f"epoch {epoch}/{epochs} ({duration(seconds)}): train loss {loss:.2f}"
    if not result:
        return line
    ema = "ema_" if "ema_top1" in result else ""
    line += f"; {'EMA ' if ema else ''}top-1 {result[f'{ema}top1']:.2f} %, loss {result[f'{ema}loss']:.4g}"
    line += f", ECE {result[f'{ema}ece']:.2f} %"
    if ema:
        line += f"; without EMA {result['top1']:.2f} %"
    return f"{line}{'; best so far' if best else ''}"


def done_line(best: dict[str, float], metric: str, total: int, classes: int, folder: Path) -> str:
    """What a run leaves: its best evaluation, the weights of it, and the curves, if they were drawn."""
    ema, curves = "EMA " if metric.startswith("ema_") else "", folder / "curves.png"
    line = f"Done: best {ema}top-1 {best[metric]:.2f} % at step {best['step']}/{total}, {classes} classes"
    return f"{line}; weights: {folder / 'model'}{f', curves: {curves}' if curves.exists() else ''}"
