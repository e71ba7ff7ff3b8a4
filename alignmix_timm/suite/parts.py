"""The parts of the evaluation, in the order in which they run."""

from .accuracy import Accuracy
from .calibration import Calibration
from .localization import Localization
from .ood import OutOfDistribution
from .part import Part
from .robustness import Robustness

PARTS: tuple[Part, ...] = (
    Accuracy(),
    Calibration(),
    OutOfDistribution(),
    Robustness(),
    Localization(),
)
