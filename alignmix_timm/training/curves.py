"""The pictures of a run, from its ``metrics.jsonl``: ``curves.png`` and ``reliability.png``."""

import logging
import re
from pathlib import Path
from typing import Any, NamedTuple

from ..evaluation.plotting import new_figure, save_figure
from ..evaluation.reliability import reliability_diagrams
from .journal import read_journal

_logger = logging.getLogger(__name__)


class Panel(NamedTuple):
    """What is drawn together: the metrics whose whole name a pattern matches, in records of one kind."""

    title: str
    unit: str
    kind: str
    pattern: str


PANELS = (
    Panel("evaluation: top-1 accuracy", "%", "eval", "(ema_)?top1"),
    Panel("evaluation: loss", "", "eval", "(ema_)?loss"),
    Panel("evaluation: expected calibration error", "%", "eval", "(ema_)?ece"),
    Panel("training: loss, by mode of mixing", "", "train", "loss(_.+)?"),
    Panel("training: accuracy on mixed images", "%", "train", "mixed_acc"),
    Panel("training: learning rate", "", "train", "lr"),
    Panel("alignment: effective correspondences", "positions", "train", "effective_correspondences"),
    Panel("alignment: marginal error", "", "train", "marginal_error"),
)
_BINS = ("examples", "correct", "confidence")


def draw_run(folder: Path) -> None:
    """Draw the pictures of a run into its folder; without matplotlib, warn that there are none."""
    records, name = read_journal(folder / "metrics.jsonl"), folder.resolve().name
    try:
        save_figure(curves_figure(records, name), folder / "curves.png")
        if any(record["kind"] == "reliability" for record in records):
            save_figure(reliability_figure(records, name), folder / "reliability.png")
    except ImportError as error:
        _logger.warning("No curves: %s", error)


def curves_figure(records: list[dict[str, Any]], name: str) -> Any:
    """The metrics of a run over its optimizer steps, those of the alignment on axes of their own.

    Args:
        records: Lines of ``metrics.jsonl``; panels without data are left out.
        name: Of the run.

    Returns:
        A matplotlib figure, as of every function here.

    Raises:
        ImportError: matplotlib is not installed.
    """
    drawn = [(panel, lines) for panel in PANELS if (lines := _lines(records, panel))]
    rows, last = -(-len(drawn) // 2), records[-1]["step"]
    figure = new_figure(9, 2.5 * rows + 0.4)
    figure.suptitle(name, fontsize="x-large", parse_math=False)
    for place, (panel, lines) in enumerate(drawn):
        axes = figure.add_subplot(rows, 2, place + 1)
        for metric, points in lines.items():
            style = dict(color="black", linewidth=2) if (panel.kind, metric) == ("train", "loss") else {}
            marker = "." if len(points) < 30 else ""
            axes.plot(*zip(*points, strict=True), marker=marker, label=_label(panel.kind, metric), **style)
        axes.set(title=panel.title, xlabel="optimizer step", ylabel=panel.unit, xlim=(0, 1.02 * last))
        axes.xaxis.get_major_locator().set_params(integer=True, nbins=6)
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.grid(alpha=0.3)
        if len(lines) > 1 or panel.kind == "eval":
            axes.legend(ncols=2 if len(lines) > 3 else 1, fontsize="small" if len(lines) > 5 else None, framealpha=0.6)
    return figure


def reliability_figure(records: list[dict[str, Any]], name: str) -> Any:
    """The reliability diagram of the best evaluation: accuracy by bins of confidence, above how many images are there.

    The best has the highest top-1 accuracy, of the EMA weights where there are some, and is the first of several.

    Args, Returns and Raises as :func:`curves_figure`.
    """
    evaluations = {record["step"]: record for record in records if record["kind"] == "eval"}
    measured = [record for record in records if record["kind"] == "reliability"]
    prefix = "ema_" if "ema_examples" in measured[-1] else ""
    comparable = [record for record in measured if f"{prefix}examples" in record]
    best = max(comparable, key=lambda record: evaluations[record["step"]][f"{prefix}top1"])
    result = evaluations[best["step"]]
    prefixes = dict.fromkeys(("", prefix))
    titles = {
        f"{_label('eval', one)}: top-1 {result[f'{one}top1']:.1f} %, ECE {result[f'{one}ece']:.1f} %": one
        for one in prefixes
    }
    bins = {title: {key: best[one + key] for key in _BINS} for title, one in titles.items()}
    return reliability_diagrams(bins, f"{name}, step {best['step']}")


def _lines(records: list[dict[str, Any]], panel: Panel) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of each metric of a panel."""
    chosen = [record for record in records if record["kind"] == panel.kind]
    names = dict.fromkeys(name for record in chosen for name in record if re.fullmatch(panel.pattern, name))
    return {name: [(record["step"], record[name]) for record in chosen if name in record] for name in names}


def _label(kind: str, metric: str) -> str:
    """What a legend calls a metric, beside others of its panel."""
    if kind == "eval":
        return "EMA weights" if metric.startswith("ema_") else "weights"
    return "all modes" if metric == "loss" else metric.removeprefix("loss_")
