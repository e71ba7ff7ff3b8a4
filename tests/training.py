"""Real training runs for the tests: the recipe in processes of its own, killed and resumed."""

import contextlib
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import psutil
import torch
from launcher import ENVIRONMENT, ROOT, launcher

from alignmix_timm.training.meters import UNREPEATABLE

EMBEDDED = ROOT / "recipes" / "data" / "fashion_mnist"
OPTIONS = {
    "model": "test_resnet",
    "img-size": 32,
    "batch-size": 32,
    "epochs": 2,
    "workers": 2,
    "train-crop": "pad",
    "aa": "rand-m5-mstd0.5",
    "reprob": 0.25,
    "drop": 0.2,
    "log-every": 1,
    "checkpoint-every": 3,
    "mixers": ["alignmix", "manifold", "cutmix", "mixup"],
    "model-ema-decay": 0.9,
}


def save_rows(folder: Path, train: int, test: int) -> Path:
    """Rows of the embedded images as a dataset of parquet files, in two shards."""
    splits = datasets.load_dataset(str(EMBEDDED))
    folder.mkdir(parents=True)
    for split, count in (("train", train), ("test", test)):
        rows = splits[split].select(range(count))
        for shard in range(2):
            rows.shard(2, shard).to_parquet(folder / f"{split}-{shard:05d}-of-00002.parquet")
    return folder


def command(
    data: Path | str, output: Path | str, processes: int = 1, script: str = "train.py", **changes: Any
) -> list[str]:
    """The command line of a run."""
    start = launcher(processes) if processes > 1 else [sys.executable]
    options = OPTIONS | {name.replace("_", "-"): value for name, value in changes.items()}
    line = [*start, str(ROOT / "recipes" / "train.py"), "--data", str(data), "--output", str(output), "--model-ema"]
    for name, value in options.items():
        values = value if isinstance(value, list) else [value]
        line += [f"--{name}", *(str(one) for one in values)]
    return line


def launch(line: list[str], **options: Any) -> subprocess.Popen[str]:
    """Start a run in a process group of its own."""
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return subprocess.Popen(line, env=ENVIRONMENT, start_new_session=True, **pipes, **options)


def finish(line: list[str], code: int = 0, **options: Any) -> str:
    """Run to the end, and return what was printed."""
    process = launch(line, **options)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == code, output[-3000:]
    return output


def kill_when(line: list[str], ready: Callable[[], bool]) -> None:
    """Start a run and SIGKILL all its processes as soon as something is so."""
    process = launch(line)
    while not ready():
        assert process.poll() is None, process.communicate()[0][-3000:]
        time.sleep(0.002)
    kill(process)


def kill(process: subprocess.Popen[str]) -> None:
    """SIGKILL a run: the launcher, its ranks, which have process groups of their own, and their data workers."""
    running = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for one in running:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    process.communicate()
    psutil.wait_procs(running, timeout=10)


def reached(output: Path, step: int) -> Callable[[], bool]:
    """Whether a run has written the metrics of an optimizer step."""
    path = output / "metrics.jsonl"
    return lambda: path.exists() and f'"kind": "train", "step": {step},' in path.read_text()


def records(output: Path, kind: str) -> list[dict[str, Any]]:
    """Metrics of one kind, without those that differ from run to run."""
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [
        {name: value for name, value in line.items() if name not in UNREPEATABLE}
        for line in lines
        if line["kind"] == kind
    ]


def digest(output: Path) -> dict[str, Any]:
    """Weights and EMA weights of the last checkpoint, bit by bit, and the metrics of the run."""
    last = output / "last"
    average = torch.load(last / "ema.pt", weights_only=True)
    exported = json.loads((output / "model" / "provenance.json").read_text())["run"]
    return {
        "model": hashlib.sha256((output / "model" / "model.safetensors").read_bytes()).hexdigest(),
        "best": (exported["step"], exported["best_by"], exported["results"], (output / "best").resolve().name),
        "weights": hashlib.sha256((last / "model.safetensors").read_bytes()).hexdigest(),
        "average": {name: hashlib.sha256(value.numpy().tobytes()).hexdigest() for name, value in average.items()},
        "train": records(output, "train"),
        "eval": records(output, "eval"),
    }
