"""The numbers that the paper prints, from ``paper_tables.yaml``, and the gains that follow from them."""

import functools
from pathlib import Path
from typing import Literal, NamedTuple

import yaml

DETECTION = {"det_acc": "Det Acc", "auroc": "AUROC", "aupr_id": "AuPR ID", "aupr_ood": "AuPR OOD"}


class Column(NamedTuple):
    """What is measured in a column of a table.

    Attributes:
        key, label: In files, and for readers.
        data, network: Of the training: ``cifar100``, ``preact_resnet18``.
        measure: Key in the result of a run; dots lead into it: ``ood.uniform.auroc``.
    """

    key: str
    label: str
    data: str
    network: str
    measure: str


class PaperTable(NamedTuple):
    """A table of the paper.

    Attributes:
        name: ``table1a``.
        title: One line with the unit.
        better: Which values are the better ones.
        columns: What is measured.
        rows: For each method the printed number of each column, None where the paper has a dash.
        printed_gain: The paper's last row; empty where it has none.
        corrections: The printed gains that do not follow from the rows, by column: what they should be.
        notes: What a reader should know of the printed numbers.
    """

    name: str
    title: str
    better: Literal["higher", "lower"]
    columns: tuple[Column, ...]
    rows: dict[str, list[float | None]]
    printed_gain: list[float | None]
    corrections: dict[str, float]
    notes: list[str]


@functools.cache
def paper_tables() -> dict[str, PaperTable]:
    """All tables by name, in the order of the paper's file."""
    tables = yaml.safe_load((Path(__file__).parent / "paper_tables.yaml").read_text())
    return {name: _table(name, **entries) for name, entries in tables.items()}


def gain(table: PaperTable, column: int) -> float | None:
    """The best printed result of AlignMix against the best of the others, positive where AlignMix is better.

    Args:
        table: One that compares methods.
        column: Its index.

    Returns:
        None where one side has no number.
    """
    sides: dict[bool, list[float]] = {True: [], False: []}
    for method, numbers in table.rows.items():
        value = numbers[column]
        if value is not None:
            sides[method.startswith("alignmix")].append(value)
    if not all(sides.values()):
        return None
    best = max if table.better == "higher" else min
    difference = best(sides[True]) - best(sides[False])
    return round(difference if table.better == "higher" else -difference, 2)


def _table(
    name: str,
    title: str,
    better: Literal["higher", "lower"],
    rows: dict[str, list[float | None]],
    columns: list[dict[str, str]] | None = None,
    outliers: dict[str, str] | None = None,
    printed_gain: list[float | None] | None = None,
    corrections: dict[str, float] | None = None,
    notes: list[str] | None = None,
) -> PaperTable:
    listed = [Column(**column) for column in columns or ()]
    for outlier, label in (outliers or {}).items():
        listed += [
            Column(f"{outlier}_{key}", f"{label}, {word}", "cifar100", "preact_resnet18", f"ood.{outlier}.{key}")
            for key, word in DETECTION.items()
        ]
    return PaperTable(name, title, better, tuple(listed), rows, printed_gain or [], corrections or {}, notes or [])
