"""The parts of the evaluation, in the order in which they run."""

from .accuracy import Accuracy
from .calibration import Calibration
from .part import Part

PARTS: tuple[Part, ...] = (
    Accuracy(),
    Calibration(),
)
