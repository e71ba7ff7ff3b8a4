"""The part ``calibration``: how far confidence is from accuracy."""

from typing import Any

from torch import Tensor

from ..evaluation.calibration import expected_calibration_error
from ..evaluation.metric import Metric
from .context import Context
from .part import Part, Values, needs_labels


class Calibration(Part):
    name = "calibration"
    help = "expected calibration error"
    metrics = (
        Metric(
            "ece",
            "ECE %",
            "lower",
            "Expected calibration error (Guo et al., 2017): mean of |accuracy - confidence| over 15 equal bins of "
            "confidence, weighted by their images, in percent.",
        ),
    )

    def obstacle(self, context: Context) -> str | None:
        if (missing := needs_labels(self.name, context)) is not None:
            return missing
        broken = int(context.logits.isnan().any(1).sum())
        return f"{self.name} needs confidences, and {broken} images have NaN logits." if broken else None

    def measure(self, context: Context) -> dict[str, Tensor]:
        assert context.labels is not None
        return {"logits": context.logits, "labels": context.labels}

    def summary(self, measured: dict[str, Tensor], settings: dict[str, Any]) -> Values:
        return {"ece": 100 * expected_calibration_error(measured["logits"], measured["labels"])}
