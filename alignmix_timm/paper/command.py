"""``python -m alignmix_timm.paper TABLE``: a table of the paper, its numbers beside those of the runs of a scale."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import full, small
from .cost import cost_text, measure_cost
from .figure4 import save_figure4
from .numbers import paper_tables
from .report import report
from .results import Line, find, read_lines
from .runner import work
from .scales import SCALES, Scale, runs
from .show import table_text

DATA = {  # on the Hub or in the project, where no other place is given
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
    "fashion_mnist": "recipes/data/fashion_mnist",
    "tiny_imagenet": "zh-plus/tiny-imagenet",
    "imagenet300": "ILSVRC/imagenet-1k",
    "imagenet100": "ILSVRC/imagenet-1k",
    "cub": "",
}
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
        SystemExit: wrong arguments, or data that cannot be loaded, with a sentence.
    """
    args = _parser().parse_args(arguments)
    try:
        for name in args.what:
            _one(name, args)
    except (ImportError, OSError, ValueError, FloatingPointError) as error:
        sys.exit(f"error: {error}")


def _one(name: str, args: argparse.Namespace) -> None:
    if name == "report":
        print(report(args.configs, read_lines(args.results)), end="")
        return
    table = paper_tables()["table7" if name == "figure4" else name]
    if not args.print_only:
        if name == "table1b":
            measure_cost(args.configs, args.results)
        wanted = runs(args.scale, table, args.configs, args.seeds)
        if lacking := _lacking(wanted, args):
            print(f"{table.name}: {lacking}", flush=True)
        work(wanted, _Train(args), args.results)
    lines = read_lines(args.results)
    of_scale = [line for line in lines if line["scale"] == args.scale]
    if name == "figure4":
        print(save_figure4(args.scale, args.configs, of_scale, args.results / f"figure4-{args.scale}.png"))
        return
    print("\n".join(table_text(table, args.scale, args.configs, of_scale)))
    if name == "table1b":
        print("\n".join(["", *cost_text(args.configs, lines)]))


def _lacking(wanted: Sequence[Line], args: argparse.Namespace) -> str:
    """Which of the outliers asked for how many finished runs were not measured on, and what to do; empty if none."""
    lines = read_lines(args.results)
    done = [line for run in wanted if _detects(run) and (line := find(lines, run)) is not None]
    counts = {name: sum(name not in line["result"].get("ood", {}) for line in done) for name in args.outliers}
    lacking = ", ".join(f"{name} ({count} of {len(done)})" for name, count in counts.items() if count)
    if not lacking:
        return ""
    file, again = args.results / f"{args.scale}.jsonl", "trains and measures" if args.scale == "small" else "measures"
    return (
        f"outliers that finished runs were not measured on: {lacking}. A finished run is not done again: delete its "
        f"line from {file}, and this command {again} it anew."
    )


def _detects(run: Line) -> bool:
    """Whether out-of-distribution images are detected by the network of a run."""
    return run["config"]["data"] == "cifar100"


class _Train:
    """Trains a run of either scale, on the data that the arguments name."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.data, self.outliers, self.folder = {**DATA, **args.data}, args.outliers, args.results / "runs"
        self.boxes = args.boxes

    def __call__(self, run: Line) -> dict[str, Any]:
        name = run["config"]["data"]
        data = self.data[name]
        if not data:
            raise ValueError(f"data must name a folder for {name}, which is not on the Hub: pass --data {name}=PATH.")
        outliers = self.outliers if _detects(run) else None
        if run["scale"] == "small":
            return small.train(run, data, outliers)
        return full.train(run, data, outliers, self.folder, self.boxes)


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
    parser.add_argument("--outliers", **places, help="folders of out-of-distribution images: lsun_crop, isun, ...")
    parser.add_argument("--boxes", type=Path, help="of cub: metadata/CUB/test of wsolevaluation, for table4")
    parser.add_argument("--results", type=Path, default=Path("recipes/results/tables"), help="default %(default)s")
    parser.add_argument("--configs", type=Path, default=Path("recipes/configs"), help="default %(default)s")
    parser.add_argument("--seeds", type=int, help="of every method; default those of the scale")
    parser.add_argument("--print-only", action="store_true", help="train nothing")
    return parser
