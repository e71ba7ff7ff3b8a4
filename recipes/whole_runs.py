"""Seconds of an epoch in whole processes: the engine's recipe, and the train.py of a timm checkout."""

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path

_ENDS = {"engine": r"epoch \d+/", "train.py": r"Current checkpoints"}  # the line in which an epoch ends
_LINES = 40  # of the output, shown where a run fails


def epoch_times(args: argparse.Namespace, timm: Path, data: Path, output: Path) -> dict[str, list[float]]:
    """Mean seconds of the epochs after the first, evaluation and checkpoint included, in each of alternating runs.

    Args:
        args: model, image_size, batch_size, workers and precision of both; runs; epochs of a run.
        timm: The checkout.
        data: Class folders of two classes in ``train`` and ``validation``.
        output: Folder for what they write.

    Raises:
        ValueError: there is no train.py, or a run fails.
    """
    if not (timm / "train.py").is_file():
        raise ValueError(f"timm must be a checkout of timm with a train.py, got {str(timm)!r}.")
    times: dict[str, list[float]] = {name: [] for name in _ENDS}
    for run in range(args.runs):
        folder = output / str(run)
        lines = {"engine": engine_line(args, data, folder), "train.py": timm_line(args, timm, data, folder)}
        for name in sorted(lines, reverse=run % 2 == 1):
            times[name].append(seconds_of_an_epoch(lines[name], _ENDS[name], args.epochs))
            print(f"run {run + 1} of {args.runs}: {name} {times[name][-1]:.2f} s an epoch", flush=True)
    return times


def engine_line(args: argparse.Namespace, data: Path, output: Path) -> list[str]:
    options = {
        **shared(args),
        "data": data,
        "output": output / "engine",
        "img-size": args.image_size,
        "mixers": "none",
        "train-interpolation": "random",
        "mixed-precision": args.precision,
    }
    return [sys.executable, str(Path(__file__).with_name("train.py")), *arguments(options)]


def timm_line(args: argparse.Namespace, timm: Path, data: Path, output: Path) -> list[str]:
    import torch

    options = {
        **shared(args),
        "num-classes": 2,
        "img-size": args.image_size,
        "color-jitter": 0,
        "smoothing": 0,
        "warmup-epochs": 0,
        "output": output / "timm",
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "amp-dtype": {"bf16": "bfloat16", "fp16": "float16"}.get(args.precision, "float16"),
    }
    amp = [] if args.precision == "no" else ["--amp"]
    return [sys.executable, str(timm / "train.py"), str(data), *arguments(options), *amp]


def shared(args: argparse.Namespace) -> dict[str, object]:
    """Options that both have by the same names."""
    return {
        "model": args.model,
        "batch-size": args.batch_size,
        "epochs": args.epochs,
        "workers": args.workers,
        "opt": "sgd",
        "lr": 0.05,
        "weight-decay": 1e-4,
    }


def arguments(options: dict[str, object]) -> list[str]:
    return [part for name, value in options.items() for part in (f"--{name}", str(value))]


def seconds_of_an_epoch(line: list[str], end: str, epochs: int) -> float:
    """From the end of the first epoch to that of the last, by their number."""
    ends, said = [], []
    streams = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(line, env=environment, **streams) as process:  # type: ignore[call-overload]
        for text in process.stdout:
            said.append(text)
            if re.search(end, text):
                ends.append(time.perf_counter())
    if process.returncode or len(ends) != epochs:
        raise ValueError(f"{' '.join(line)} failed, or ended {len(ends)} epochs:\n{''.join(said[-_LINES:])}")
    return (ends[-1] - ends[0]) / (epochs - 1)
