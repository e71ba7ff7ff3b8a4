"""Do the runs that are not done, alone or beside other processes and machines that share the folder of the results."""

import hashlib
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from ..publishing.provenance import processor_name, versions
from ..training.run_folder import HeldError
from .locks import EXPIRY, holding
from .results import Line, append_line, check_writable, find, identity, missing, read_lines

Train = Callable[[Line], dict[str, Any]]
WAIT = 10.0  # seconds between looks at the runs of others
_TAKEN_OVER = f"which is taken over once nobody has touched it for {EXPIRY / 60:g} minutes"
PACKAGES = ("alignmix-timm", "torch", "timm", "torchvision", "numpy", "scipy")


def work(runs: Sequence[Line], train: Train, folder: Path) -> list[Line]:
    """Do what is missing of these runs, in their order; what others do at the moment is waited for.

    Killed at any time, it does the rest when it is called again: a run is done when its line is written, and nothing
    else is kept here. A run that diverges is left out, and stops no other; it, too, is tried by the next call.

    Args:
        runs: Scale, config and seed of each.
        train: Does one run; returns its result.
        folder: Of the results; a file for each scale, and ``locks``.

    Returns:
        The lines of the runs, in their order; a run that diverged has none.

    Raises:
        ValueError: nothing can be written to the folder.
    """
    diverged, told = list[Line](), False
    if left := missing(runs, read_lines(folder)):
        check_writable(folder, {f"{run['scale']}.jsonl" for run in left})
    while left:
        held = []
        for run in left:
            lock = folder / "locks" / f"{_name(run)}.lock"
            with holding(lock) as mine:
                if not mine:
                    held.append((run, f"it holds {lock}, {_TAKEN_OVER}"))
                elif find(read_lines(folder), run) is None:
                    try:
                        _do(run, train, folder, [one for one in runs if one not in diverged])
                    except FloatingPointError as error:
                        print(f"{describe(run)}: no result. {error}", flush=True)
                        diverged.append(run)
                    except HeldError as error:  # its owner slept past the lock
                        held.append((run, f"process {error.process} trains it"))
        if len(held) == len(left):
            if not told:
                print(_waiting(held), flush=True)
            told = True
            time.sleep(WAIT)
        left = [run for run in missing(runs, read_lines(folder)) if run not in diverged]
    lines = read_lines(folder)
    return [line for run in runs if (line := find(lines, run)) is not None]


def _do(run: Line, train: Train, folder: Path, runs: Sequence[Line]) -> None:
    """Do a run, write its line, and say how far the runs are."""
    append_line(folder / f"{run['scale']}.jsonl", finished(run, train), once=True)
    print(progress(runs, read_lines(folder), run), flush=True)


def _waiting(held: Sequence[tuple[Line, str]]) -> str:
    """What is waited for, in one line."""
    (run, by), more = held[0], len(held) - 1
    return f"waiting for {describe(run)}{f' and {more} more' if more else ''}, on which another process works: {by}."


def progress(runs: Sequence[Line], lines: Sequence[Line], last: Line) -> str:
    """One line: how many of the runs are done, what the last one gave, and how long one process needs for the rest."""
    done = [line for run in runs if (line := find(lines, run)) is not None]
    left = [run for run in runs if find(lines, run) is None]
    line = find(lines, last)
    assert line is not None
    seconds = round(sum(expected_seconds(run, done) for run in left))
    return (
        f"[{len(done)}/{len(runs)}] {describe(last)}: error {line['result']['error']:.2f} %, {line['seconds']:.0f} s; "
        f"left for one process: {timedelta(seconds=seconds)}"
    )


def expected_seconds(run: Line, done: Sequence[Line]) -> float:
    """The median of the runs of the same mixer, else of all that are done."""
    alike = [line["seconds"] for line in done if line["config"]["mixers"] == run["config"]["mixers"]]
    return statistics.median(alike or [line["seconds"] for line in done])


def describe(run: Line) -> str:
    """A run in a few words."""
    config = run["config"]
    words = [run["scale"], config["data"], config["model"], *config["mixers"]]
    if config["mixers"] == ["alignmix"]:
        words += [config["method"].removeprefix("alignmix").strip("_"), "".join(m[0] for m in config["modes"])]
        words += ["aligned" if config["assignment"] == "transport" else "unaligned"]
        words += ["tensor"] if config.get("embedding") == "tensor" else []
        words += [f"grid {config['grid']}"] if "grid" in config else []
    return f"{' '.join(word for word in words if word)}, seed {run['seed']}"


def finished(run: Line, train: Train) -> Line:
    """Do the run; its line says by what, and on which hardware."""
    start = time.monotonic()
    result = train(run)
    by = processor() if run["scale"] == "small" else hardware()  # the small scale uses no accelerator, if there is one
    about = {"commit": _commit(), "versions": versions(PACKAGES), "hardware": by}
    return {**run, **about, "seconds": round(time.monotonic() - start, 1), "result": result}


def hardware() -> str:
    """Of this process: the accelerator, or the processor and the number of threads."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else processor()


def processor() -> str:
    """Of this process, and the number of threads."""
    return f"{processor_name()}, {torch.get_num_threads()} thread(s)"


def _name(run: Line) -> str:
    config = run["config"]
    digest = hashlib.sha256(identity(run).encode()).hexdigest()[:12]
    return f"{run['scale']}-{config['data']}-{config['mixers'][0]}-{run['seed']}-{digest}"


def _commit() -> str:
    """Of the checkout that tracks this file, with ``+`` where tracked files were changed; empty if there is none."""
    try:
        _git("ls-files", "--error-unmatch", "paper/runner.py")  # not where it is only installed
        return _git("rev-parse", "HEAD")[:12] + ("+" if _git("status", "--porcelain", "-uno", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _git(*arguments: str) -> str:
    line = ["git", "-C", str(Path(__file__).parents[1]), *arguments]
    return subprocess.run(line, capture_output=True, text=True, check=True).stdout.strip()
