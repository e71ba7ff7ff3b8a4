"""``python -m alignmix_timm.paper TABLE``: a table of the paper, its numbers beside those of the runs of a scale."""

import argparse
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..nearest import nearest
from ..training.errors import told_in_a_sentence
from ..training.launch import launched_processes
from ..typed import at_least
from .cost import cost_text, measure_cost
from .figure4 import save_figure4
from .numbers import PaperTable, paper_tables
from .report import report
from .results import Line, find, missing, read_lines
from .runner import describe, work
from .scales import SCALES, Scale, runs
from .show import table_text
from .train import DATA, Train, detects, known_data, known_outliers

TABLES = list(paper_tables())
DESCRIPTION = """A table of the paper: train what is missing, and print the paper's numbers beside ours.

    python -m alignmix_timm.paper table1a --print-only
    python -m alignmix_timm.paper table7 table1a --data cifar100=path fashion_mnist=path
    python -m alignmix_timm.paper report > recipes/REPRODUCTION.md
    CUDA_VISIBLE_DEVICES=0 python -m alignmix_timm.paper table1a --scale paper --results shared/folder

A finished run is a line in the folder of the results, which is not done again; tables share their runs. Call it in
several processes, on several machines that share the folder, or again after a kill: each takes a run that nobody works
on.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Do the runs of tables and print them.

    Raises:
        SystemExit: wrong arguments, data that cannot be loaded, or runs that diverged, with a sentence; Ctrl-C.
    """
    args = _options(arguments)
    with told_in_a_sentence():
        try:
            _do(args)
        except ImportError as error:
            raise ValueError(str(error)) from error


def _do(args: argparse.Namespace) -> None:
    """All that is asked for; what the runs will read is read before the first is trained."""
    if (together := launched_processes(os.environ)) > 1:
        raise ValueError(
            f"each process trains runs of its own, got {together} that were launched to train one together. Start "
            "one for each GPU by itself, with CUDA_VISIBLE_DEVICES=0, 1 and so on and the same --results."
        )
    trained = [name for name in args.what if name != "report" and not args.print_only]
    wanted = {name: runs(args.scale, _table(name), args.configs, args.seeds) for name in trained}
    train, diverged = Train(args.data, args.outliers, args.boxes, args.results / "runs"), list[Line]()
    lines = read_lines(args.results)
    train.check(missing([run for each in wanted.values() for run in each], lines), lines)
    for name in args.what:
        if name in wanted:
            diverged += _train(name, [run for run in wanted[name] if run not in diverged], train, args)
        elif not args.results.is_dir():
            raise ValueError(
                f"results must be a folder of finished runs where nothing is trained, got {str(args.results)!r}: "
                "call it in the project's folder, or pass --results."
            )
        print(_text(name, args))
    if diverged:
        raise FloatingPointError(
            f"{len(diverged)} run(s) diverged and have no result: {'; '.join(map(describe, diverged))}. The next call "
            "tries them again."
        )


def _table(name: str) -> PaperTable:
    return paper_tables()["table7" if name == "figure4" else name]


def _train(name: str, wanted: Sequence[Line], train: Train, args: argparse.Namespace) -> list[Line]:
    """Do what is missing of the runs of a table; returns those that diverged."""
    if name == "table1b":
        measure_cost(args.configs, args.results)
    if lacking := " ".join(_lacking(name, wanted, args)):
        print(f"{_table(name).name}: {lacking}", flush=True)
    return missing(wanted, work(wanted, train, args.results))


def _text(name: str, args: argparse.Namespace) -> str:
    """What is printed of a table, or of all; figure 4 is drawn."""
    lines = read_lines(args.results)
    of_scale = [line for line in lines if line["scale"] == args.scale]
    if name == "report":
        return report(args.configs, lines).removesuffix("\n")
    if name == "figure4":
        return str(save_figure4(args.scale, args.configs, of_scale, args.results / f"figure4-{args.scale}.png"))
    text = table_text(_table(name), args.scale, args.configs, of_scale)
    return "\n".join([*text, "", *cost_text(args.configs, lines)] if name == "table1b" else text)


def _lacking(name: str, wanted: Sequence[Line], args: argparse.Namespace) -> Iterator[str]:
    """On which outliers runs to come will not be measured, and finished ones were not, and what to do."""
    lines = read_lines(args.results)
    detecting = [run for run in wanted if detects(run)]
    done = [line for run in detecting if (line := find(lines, run)) is not None]
    absent = [one for one in known_outliers([_table(name)]) if one not in args.outliers]
    if absent and (to_come := len(detecting) - len(done)):
        yield (
            f"{to_come} run(s) will not be measured on {', '.join(absent)}, whose columns stay empty: "
            f"pass --outliers {' '.join(f'{one}=PATH' for one in absent)}."
        )
    counts = {one: sum(one not in line["result"].get("ood", {}) for line in done) for one in args.outliers}
    if lacking := ", ".join(f"{one} ({count} of {len(done)})" for one, count in counts.items() if count):
        again = "trains and measures" if args.scale == "small" else "measures"
        yield (
            f"outliers that finished runs were not measured on: {lacking}. A finished run is not done again: delete "
            f"its line from {args.results / f'{args.scale}.jsonl'}, and this command {again} it anew."
        )


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The arguments, with names that are known."""
    parser = _parser()
    args = parser.parse_args(arguments)
    for option, known in (("data", known_data(args.scale)), ("outliers", known_outliers(paper_tables().values()))):
        for name in getattr(args, option):
            if name not in known:
                parser.error(
                    f"argument --{option}: a name must be one of {', '.join(known)} at the scale {args.scale}, got "
                    f"{name!r}.{nearest(name, known)}"
                )
    return args


def _named(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not equals or not path:
        raise argparse.ArgumentTypeError(f"must be NAME=PATH, got {text!r}")
    return name, path


class _Named(argparse.Action):
    """Several NAME=PATH as a dictionary."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        setattr(namespace, self.dest, {**getattr(namespace, self.dest), **dict(values)})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m alignmix_timm.paper",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    places: Any = dict(nargs="+", type=_named, action=_Named, default={}, metavar="NAME=PATH")
    scales: tuple[Scale, ...] = SCALES
    parser.add_argument("what", nargs="+", choices=[*TABLES, "figure4", "report"], metavar="TABLE")
    parser.add_argument("--scale", choices=scales, default="small", help="default small, for two CPU cores")
    parser.add_argument("--data", **places, help=f"folders of {', '.join(DATA)}; default the Hub's")
    sets = ", ".join(known_outliers(paper_tables().values()))
    parser.add_argument("--outliers", **places, help=f"folders of out-of-distribution images: {sets}")
    parser.add_argument("--boxes", type=Path, help="of cub: metadata/CUB/test of wsolevaluation, for table4")
    parser.add_argument("--results", type=Path, default=Path("recipes/results/tables"), help="default %(default)s")
    parser.add_argument("--configs", type=Path, default=Path("recipes/configs"), help="default %(default)s")
    parser.add_argument("--seeds", type=at_least(1), help="of every method; default those of the scale")
    parser.add_argument("--print-only", action="store_true", help="train nothing")
    return parser
