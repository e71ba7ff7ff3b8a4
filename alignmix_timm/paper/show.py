"""A table of the paper as Markdown: its numbers beside ours, and the differences between methods."""

from collections.abc import Sequence
from pathlib import Path

from ..evaluation.student import Estimate
from .compare import Compared, compared, difference
from .numbers import PaperTable, gain
from .results import Line
from .scales import Scale, data_label, method_of, runs

DASH, NOT_HERE = "-", "not at this scale"


def table_text(table: PaperTable, scale: Scale, configs: Path, lines: Sequence[Line]) -> list[str]:
    """The lines of a table: the paper's numbers beside ours, differences, and what to know of both.

    Args:
        table: A table of the paper.
        scale, configs: See :func:`.scales.cell`.
        lines: Of the runs of this scale.
    """
    columns = compared(table, scale, configs, lines)
    text = [f"## {title_of(table)}", "", *_missing_columns(table, columns)]
    if not columns:
        planned = bool(runs(scale, table, configs, seeds=1))
        return [*text, *_printed_alone(table, planned)]
    text += _ablation(table, columns) if table.name == "table8" else [*_beside(scale, columns), *_gains(table, columns)]
    text += [] if table.name == "table8" else _differences(scale, columns)
    text += [f"{method}: {reason}." for method, reason in _not_run(columns).items()]
    return [*text, "", *(f"- {note}" for note in table.notes)]


def title_of(table: PaperTable) -> str:
    """``Table 1a. Image classification, top-1 error %``."""
    return f"Table {table.name.removeprefix('table')}. {table.title}"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table of Markdown."""
    return [f"| {' | '.join(header)} |", "|---" * len(header) + "|", *(f"| {' | '.join(row)} |" for row in rows), ""]


def counted(found: Estimate | None) -> str:
    """A mean with its interval, and in brackets the number of seeds behind it; empty where there is none."""
    return "" if found is None else f"{found} ({found.size})"


def _number(value: float | None) -> str:
    return DASH if value is None else f"{value:g}"


def _missing_columns(table: PaperTable, columns: dict[str, list[Compared]]) -> list[str]:
    left_out = [column.label for column in table.columns if column.key not in columns]
    return [f"Not measured at this scale: {'; '.join(left_out)}.", ""] if left_out and columns else []


def _beside(scale: Scale, columns: dict[str, list[Compared]]) -> list[str]:
    """Each method's numbers, the paper's and ours."""
    cells = list(columns.values())
    header = ["method"]
    for one in cells:
        header += [f"{one[0].column.label}: paper", f"{data_label(scale, one[0].column)}: ours"]
    rows = []
    for row in zip(*cells, strict=True):
        numbers = [text for one in row for text in (_number(one.printed), _ours(one))]
        rows.append([row[0].method.label, *numbers])
    return markdown(header, rows)


def _ours(one: Compared) -> str:
    if one.ours is None:
        return "does not run" if one.method.missing else one.missing
    return counted(one.ours)


def _gains(table: PaperTable, columns: dict[str, list[Compared]]) -> list[str]:
    said = []
    for index, column in enumerate(table.columns):
        recomputed = gain(table, index)
        if column.key in columns and recomputed is not None:
            wrong = f" (printed: {table.printed_gain[index]:g})" if column.key in table.corrections else ""
            said.append(f"{column.label} {recomputed:+g}{wrong}")
    return ["The paper's gain, the best of AlignMix against the best of the others: " + "; ".join(said) + ".", ""]


def _differences(scale: Scale, columns: dict[str, list[Compared]]) -> list[str]:
    """Each method minus no mixing and minus the best other, seed by seed."""
    cells = list(columns.values())
    if all(one.ours is None for column in cells for one in column):
        return []
    header = ["difference, seed by seed (seeds of both)"]
    header += [
        f"{data_label(scale, one[0].column)}: - {base}" for one in cells for base in ("no mixing", "the best other")
    ]
    rows = []
    for row in zip(*cells, strict=True):
        if any(one.ours is not None for one in row):
            texts = [text for one in row for text in (counted(one.minus_none), _against_best(one))]
            rows.append([row[0].method.label, *texts])
    return markdown(header, rows)


def _against_best(one: Compared) -> str:
    return "" if one.minus_best is None else f"{counted(one.minus_best)}, {one.best}"


def _ablation(table: PaperTable, columns: dict[str, list[Compared]]) -> list[str]:
    """Table 8: unaligned and aligned, and their difference."""
    pairs = {pair[0].method.label: pair for pair in zip(*columns.values(), strict=True)}
    rows = []
    for row, numbers in table.rows.items():
        label, papers = method_of(table, row, aligned=True).label, [_number(number) for number in numbers]
        if label not in pairs:
            rows.append([label, papers[0], NOT_HERE, papers[1], NOT_HERE, ""])
            continue
        unaligned, aligned = pairs[label]
        ours = [DASH if one.printed is None else _ours(one) for one in (unaligned, aligned)]
        both = None if aligned.printed is None else difference(aligned.values, unaligned.values)
        rows.append([label, papers[0], ours[0], papers[1], ours[1], counted(both)])
    header = ["row", "unaligned: paper", "ours", "aligned: paper", "ours"]
    header += ["aligned - unaligned, seed by seed (seeds of both)"]
    return markdown(header, rows)


def _not_run(columns: dict[str, list[Compared]]) -> dict[str, str]:
    return {one.method.label: one.method.missing for column in columns.values() for one in column if one.method.missing}


def _printed_alone(table: PaperTable, planned: bool) -> list[str]:
    """The paper's numbers where the scale has none of its own, or, if its runs are planned, none yet."""
    rows = [[row, *map(_number, numbers)] for row, numbers in table.rows.items()]
    header = ["method", *(f"{column.label}: paper" for column in table.columns)]
    return [
        *markdown(header, rows),
        "No run of this scale has measured this yet." if planned else "This scale has no runs for this table.",
        "",
        *(f"- {note}" for note in table.notes),
    ]
