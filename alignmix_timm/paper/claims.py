"""What the paper claims, and whether the intervals of our differences show it."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ..evaluation.student import Estimate
from .compare import ENOUGH, Compared, compared, difference
from .numbers import PaperTable, paper_tables
from .results import Line
from .scales import Scale, data_label

KINDS = {  # what AlignMix is compared with
    "no mixing": "AlignMix and AlignMix/AE against no mixing",
    "the best other method": "AlignMix and AlignMix/AE against the best other method",
    "unaligned": "Aligned against unaligned mixing of the same layers",
}
SHOWS, OPPOSITE, OPEN, ABSENT = "shows", "the opposite shows", "not told apart", "too few runs"


class Claim(NamedTuple):
    """A difference that the paper prints, and ours.

    Attributes:
        table: Its name.
        kind: One of ``KINDS``.
        text: In words.
        printed: The paper's difference; None where it prints only one of both numbers, or neither.
        ours: Mean over seeds and 95 % interval.
        verdict: Whether the interval lies on the paper's side of zero, on the other, or on both; it needs three seeds.
    """

    table: str
    kind: str
    text: str
    printed: float | None
    ours: Estimate | None
    verdict: str


def claims(scale: Scale, configs: Path, lines: Sequence[Line]) -> list[Claim]:
    """All claims of the tables that a scale has runs for, in the order of the paper, but those on the OE of Table 7."""
    found: list[Claim] = []
    for table in paper_tables().values():
        columns = compared(table, scale, configs, lines)
        columns.pop("oe", None)  # the paper's is another formula
        if table.name == "table8":
            found += [
                _pair(table, *pair) for pair in zip(*columns.values(), strict=True) if pair[1].printed is not None
            ]
        else:
            found += [claim for cells in columns.values() for claim in _of_column(table, scale, cells)]
    return found


def _of_column(table: PaperTable, scale: Scale, cells: Sequence[Compared]) -> list[Claim]:
    by_key = {one.method.key: one for one in cells}
    where = f"{table.name}, {data_label(scale, cells[0].column)}"
    made = []
    for key in ("alignmix", "alignmix_ae"):
        one = by_key[key]
        others = [
            (other.printed, other.method.label)
            for other in cells
            if not other.method.key.startswith("alignmix") and other.printed is not None
        ]
        best = min(others) if table.better == "lower" else max(others)
        for kind, base, ours in (
            ("no mixing", by_key["baseline"].printed, one.minus_none),
            ("the best other method", best[0], one.minus_best),
        ):
            name = f"{kind}, here {one.best}" if kind != "no mixing" and one.best else kind
            text = f"{where}: {one.method.label} against {name}"
            made.append(_claim(table, kind, text, one.printed, base, ours))
    aligned, unaligned = by_key["alignmix"], by_key["alignmix_unaligned"]
    ours = difference(aligned.values, unaligned.values)
    made.append(_claim(table, "unaligned", f"{where}: AlignMix against unaligned", None, None, ours))
    return made


def _pair(table: PaperTable, unaligned: Compared, aligned: Compared) -> Claim:
    ours = difference(aligned.values, unaligned.values)
    text = f"table8: {aligned.method.label}, aligned against unaligned"
    return _claim(table, "unaligned", text, aligned.printed, unaligned.printed, ours)


def _claim(
    table: PaperTable, kind: str, text: str, printed: float | None, base: float | None, ours: Estimate | None
) -> Claim:
    """The paper's side of zero is the sign of its own difference; where it prints none, that of a gain."""
    gap = None if printed is None or base is None else round(printed - base, 2)
    side = (1 if table.better == "higher" else -1) if not gap else (1 if gap > 0 else -1)
    if ours is None or ours.size < ENOUGH:
        verdict = ABSENT
    else:
        verdict = {side: SHOWS, -side: OPPOSITE, 0: OPEN}[ours.sign]
    return Claim(table.name, kind, text, gap, ours, verdict)
