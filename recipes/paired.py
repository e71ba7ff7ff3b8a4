"""Runs that are compared in pairs: each is trained once, in one of several processes, and leaves one JSON line.

Two arms of a pair share rows, initial weights, order and draws; what differs is named in their settings. Differences
are taken seed by seed, with the 95 % interval of Student's t.
"""

import json
import multiprocessing
import os
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from scipy import stats
from tqdm import tqdm

Setting = dict[str, Any]
Train = Callable[[Setting], dict[str, float]]


def read_runs(file: Path) -> list[Setting]:
    """The finished runs; a line that a kill left unfinished is not one."""
    runs = []
    for line in file.read_text().splitlines() if file.exists() else ():
        try:
            runs.append(json.loads(line))
        except ValueError:
            continue
    return runs


def find(runs: Iterable[Setting], setting: Setting) -> Setting | None:
    """The run that was made with this setting."""
    return next((run for run in runs if all(run.get(name) == value for name, value in setting.items())), None)


def train_all(settings: Sequence[Setting], train: Train, file: Path, processes: int) -> list[Setting]:
    """Train what is not in the file yet, in the order given, and return the runs of all settings.

    Args:
        settings: What defines each run, JSON types only.
        train: Trains one run and returns what was measured; a function of a module, for it runs in other processes.
        file: One JSON line for each run, appended as it ends.
        processes: Number of them; each uses one thread.
    """
    runs = read_runs(file)
    missing = [setting for setting in settings if find(runs, setting) is None]
    file.parent.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with context.Pool(min(processes, max(1, len(missing)))) as pool, file.open("a") as lines:
        finished = pool.imap_unordered(_Run(train), missing)
        for found in tqdm(finished, total=len(missing), unit="run", disable=not missing):
            lines.write(json.dumps(found) + "\n")
            lines.flush()
            os.fsync(lines.fileno())
            runs.append(found)
    return [run for run in (find(runs, setting) for setting in settings) if run is not None]


class _Run:
    """A setting to a line."""

    def __init__(self, train: Train) -> None:
        self.train = train

    def __call__(self, setting: Setting) -> Setting:
        return {**setting, **self.train(setting)}


def differences(runs: Sequence[Setting], arm: str, base: str, measure: str) -> list[float]:
    """Arm minus base, for each seed that has both."""
    of = {(run["arm"], run["seed"]): run[measure] for run in runs}
    return [of[arm, seed] - of[base, seed] for name, seed in of if name == arm and (base, seed) in of]


def interval(values: Sequence[float], digits: int = 2) -> str:
    """Mean ± half of the 95 % interval."""
    if not values:
        return ""
    mean = f"{statistics.mean(values):.{digits}f}"
    if len(values) == 1:
        return mean
    half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean} ± {half:.{digits}f}"
