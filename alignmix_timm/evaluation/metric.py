"""What a number of an evaluation is: one record for tables, files and cards."""

from typing import Literal, NamedTuple


class Metric(NamedTuple):
    """A measure of a network.

    Attributes:
        key: In JSON, ``lower_case``.
        label: In tables and figures, with the unit: ``ECE %``.
        better: Which values are the better ones; None where neither is.
        definition: One sentence with the formula and its source, written beside the numbers.
    """

    key: str
    label: str
    better: Literal["higher", "lower"] | None
    definition: str
