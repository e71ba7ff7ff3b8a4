"""Runs that are compared in pairs: each is trained once, in one of several processes, and leaves one JSON line.

Two arms of a pair share rows, initial weights, order and draws; what differs is named in their settings. Differences
are taken seed by seed, with the 95 % interval of Student's t.
"""

import argparse
import itertools
import math
import multiprocessing
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from tqdm import tqdm

from alignmix_timm.evaluation.student import estimate
from alignmix_timm.paper.results import append_line, read_file
from alignmix_timm.typed import at_least

Setting = dict[str, Any]
Train = Callable[[Setting], dict[str, float]]


def paired_parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser with the option that comes first; those of the recipe follow, and :func:`add_run_options`."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="uoft-cs/cifar100", help="name or folder for datasets.load_dataset")
    return parser


def add_run_options(
    parser: argparse.ArgumentParser, arms: Iterable[str], numbers: Mapping[str, float], results: Path
) -> None:
    """Add the options of the runs: which, by what numbers, and where they are kept.

    Args:
        parser: That of the recipe.
        arms: All that there are.
        numbers: The defaults of what a recipe sets by number, such as ``batch_size``.
        results: The default file of the finished runs.
    """
    parser.add_argument("--arms", nargs="+", choices=arms, default=list(arms))
    parser.add_argument("--seeds", type=at_least(0), nargs="+", default=list(range(12)))
    for name, default in numbers.items():
        kind: Callable[[str], float] = at_least(1) if isinstance(default, int) else _positive
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=default)
    parser.add_argument("--processes", type=at_least(1), default=1, help="each trains one run at a time")
    parser.add_argument("--results", type=Path, default=results)
    parser.add_argument("--table", action="store_true", help="print the tables of the results, train nothing")


def _positive(text: str) -> float:
    """The type of an option that is a finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be > 0, got {text!r}")
    return value


def finished_runs(args: argparse.Namespace) -> list[Any]:
    """What the file of the results holds.

    Raises:
        ValueError: there is no such file, and nothing is trained.
    """
    if args.table and not args.results.exists():
        raise ValueError(
            f"results must be a file of finished runs for --table, got {str(args.results)!r}: pass another."
        )
    return read_file(args.results)


def settings_of(args: argparse.Namespace, names: Iterable[str]) -> list[Setting]:
    """The setting of each run: the options of these names, an arm and a seed; all arms of a seed before the next.

    Data and weights count by the last part of their name, wherever they lie.
    """
    shared = {name: getattr(args, name) for name in names}
    shared |= {name: Path(shared[name]).name for name in ("data", "weights") if shared.get(name)}
    pairs = itertools.product(dict.fromkeys(args.seeds), dict.fromkeys(args.arms))
    return [{**shared, "arm": arm, "seed": seed} for seed, arm in pairs]


def studies(runs: Iterable[Setting], names: Sequence[str]) -> list[tuple[Setting, list[Setting]]]:
    """What the runs of a table have in common, by these names, and those runs, each once."""
    found: dict[tuple[Any, ...], dict[tuple[str, int], Setting]] = {}
    for run in runs:
        if run.keys() >= {"arm", "seed"}:  # not a line of something else
            study = found.setdefault(tuple(run.get(name) for name in names), {})
            study.setdefault((run["arm"], run["seed"]), run)
    return [(dict(zip(names, study, strict=True)), list(each.values())) for study, each in found.items()]


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

    Raises:
        ValueError, FloatingPointError: of a run.
        ChildProcessError: a process died; the lines of finished runs are kept.
    """
    runs = [run for run in read_file(file) if isinstance(run, dict)]
    missing = [setting for setting in settings if find(runs, setting) is None]
    context = multiprocessing.get_context("spawn")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    pool = ProcessPoolExecutor(min(processes, max(1, len(missing))), context)
    try:
        futures = [pool.submit(_Run(train), setting) for setting in missing]
        for future in tqdm(as_completed(futures), total=len(missing), unit="run", disable=not missing):
            found = future.result()
            append_line(file, found)
            runs.append(found)
    except BrokenProcessPool as error:
        raise ChildProcessError(
            "a process that trained a run died. The machine may be short of memory: try fewer --processes. Finished "
            f"runs are in {file}, and are not trained again."
        ) from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.terminate()
    return [run for run in (find(runs, setting) for setting in settings) if run is not None]


class _Run:
    """A setting to a line."""

    def __init__(self, train: Train) -> None:
        self.train = train

    def __call__(self, setting: Setting) -> Setting:
        found = self.train(setting)
        if not all(math.isfinite(value) for value in found.values() if isinstance(value, float)):
            raise FloatingPointError(f"training diverged, and has no result: {setting}. Try a lower --lr.")
        return {**setting, **found}


def differences(runs: Sequence[Setting], arm: str, base: str, measure: str) -> list[float]:
    """Arm minus base, for each seed that has both."""
    of = {(run["arm"], run["seed"]): run[measure] for run in runs}
    return [of[arm, seed] - of[base, seed] for name, seed in of if name == arm and (base, seed) in of]


def interval(values: Sequence[float], measure: str) -> str:
    """Mean ± half of the 95 % interval; percentages with two digits after the point, the NLL with three."""
    found, digits = estimate(values), 3 if measure == "nll" else 2
    if found is None:
        return ""
    return f"{found.mean:.{digits}f}" + ("" if found.half is None else f" ± {found.half:.{digits}f}")


def print_rows(
    runs: Sequence[Setting],
    arms: Iterable[str],
    measures: Mapping[str, str],
    compared: Mapping[str, tuple[str, str]],
    counted: bool = True,
) -> None:
    """Print a table, a row for each arm that has runs: means, and differences to other arms, with their intervals.

    Args:
        runs: Of one study.
        arms: In the order of the rows.
        measures: Titles of the measures, by name.
        compared: Measure and other arm of each difference, by title.
        counted: Whether a column says how many seeds an arm has.
    """
    titles = ["arm", "seeds"] if counted else [""]
    titles += [*measures.values(), *compared]
    print(f"| {' | '.join(titles)} |")
    print("|---" * len(titles) + "|")
    for arm in arms:
        of_arm = [run for run in runs if run["arm"] == arm]
        if of_arm:
            cells = [arm, str(len(of_arm))] if counted else [arm]
            cells += [interval([run[name] for run in of_arm], name) for name in measures]
            cells += [
                "" if arm == base else interval(differences(runs, arm, base, name), name)
                for name, base in compared.values()
            ]
            print(f"| {' | '.join(cells)} |")


def print_studies(
    runs: Iterable[Any],
    names: Sequence[str],
    arms: Iterable[str],
    measures: Mapping[str, str],
    compared: Mapping[str, tuple[str, str]],
) -> None:
    """Print what the runs of each study have in common, by these names, and their table: see :func:`print_rows`."""
    measured = (run for run in runs if isinstance(run, dict) and run.keys() >= measures.keys())
    for study, alike in studies(measured, names):
        print(f"\n{', '.join(f'{name} {value}' for name, value in study.items() if value is not None)}")
        print_rows(alike, arms, measures, compared)
