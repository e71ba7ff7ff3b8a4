"""The parts of the evaluation, in the order in which they run."""

from .accuracy import Accuracy
from .calibration import Calibration
from .ood import OutOfDistribution
from .part import Part

PARTS: tuple[Part, ...] = (
    Accuracy(),
    Calibration(),
    OutOfDistribution(),
)
