"""The cells of a table from the lines of its runs: means, and differences taken seed by seed, with 95 % intervals."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..evaluation.student import Estimate, estimate
from .methods import Method, is_ours
from .numbers import Column, PaperTable
from .results import Line, by_seed
from .scales import Scale, cell, method_of, rows_of

ENOUGH = 3  # seeds, below which an interval says nothing
COST = ("parameters", "milliseconds")  # of a step, which no training run measures
Values = Mapping[int, float]  # by seed


@dataclass(frozen=True)
class Compared:
    """A cell of a table.

    Attributes:
        method: Of its row.
        column: Of the table.
        printed: The paper's number; None where it has none.
        values: Ours, by seed.
        ours: Their mean; None where no run is done.
        missing: Why there is none; empty if there is one.
        minus_none: Difference to no mixing.
        minus_best: Difference to ``best``.
        best: The label of the best of the methods that are neither AlignMix's nor this one, by its mean; one of those
            with three seeds, as soon as there are any.
    """

    method: Method
    column: Column
    printed: float | None
    values: Values
    ours: Estimate | None
    missing: str
    minus_none: Estimate | None = None
    minus_best: Estimate | None = None
    best: str = ""


def difference(values: Values, base: Values) -> Estimate | None:
    """Values minus base, of the seeds that have both."""
    return estimate([values[seed] - base[seed] for seed in sorted(values.keys() & base.keys())])


def compared(table: PaperTable, scale: Scale, configs: Path, lines: Sequence[Line]) -> dict[str, list[Compared]]:
    """The cells of each column that the scale has, by the key of the column, in the order of the rows.

    Args:
        table: One whose rows are methods.
        scale, configs: See :func:`.scales.cell`.
        lines: Of the runs of this scale.
    """
    found = {}
    for column in (column for column in table.columns if column.measure not in COST):
        cells = [_cell(table, row, column, scale, configs, lines) for row in rows_of(table)]
        without_images = column.measure.startswith("ood.") and not any(one and one.values for one in cells)
        if any(one is not None for one in cells) and not without_images:
            found[column.key] = _with_differences(table, [one for one in cells if one is not None])
    return found


def _cell(
    table: PaperTable, row: str, column: Column, scale: Scale, configs: Path, lines: Sequence[Line]
) -> Compared | None:
    index = table.columns.index(column)
    aligned = table.name != "table8" or column.key == "aligned"
    method = method_of(table, row, aligned)
    printed = table.rows[row][index] if row in table.rows else None
    config = cell(scale, column, method, configs)
    if config is None:
        return None
    none = method.missing or (table.name == "table8" and printed is None)
    values = {} if none else by_seed(lines, config, column.measure)
    done = any(line["config"] == config for line in lines)
    reason = method.missing or ("" if values else "not measured" if done else "no run yet")
    return Compared(method, column, printed, values, estimate(list(values.values())), reason)


def _with_differences(table: PaperTable, cells: list[Compared]) -> list[Compared]:
    """The cells with their differences to no mixing and to the best other method."""
    none = next((one for one in cells if one.method.key == "baseline"), None)
    sign = 1 if table.better == "lower" else -1
    others = sorted(
        (one for one in cells if one.ours is not None and not is_ours(one.method.key)),
        key=lambda one: (len(one.values) < ENOUGH, sign * statistics.mean(one.values.values())),
    )
    return [_against(one, none, next((other for other in others if other is not one), None)) for one in cells]


def _against(one: Compared, none: Compared | None, best: Compared | None) -> Compared:
    minus_none = None if none is None or one is none else difference(one.values, none.values)
    minus_best = None if best is None else difference(one.values, best.values)
    label = "" if best is None else best.method.label
    return Compared(
        one.method, one.column, one.printed, one.values, one.ours, one.missing, minus_none, minus_best, label
    )
