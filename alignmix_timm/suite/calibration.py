"""The part ``calibration``: how far confidence is from accuracy, and its reliability diagram."""

from pathlib import Path
from typing import Any

from torch import Tensor

from ..evaluation.calibration import METRICS, bin_lists, bin_sums, row_scores, summary
from ..evaluation.plotting import save_figure
from ..evaluation.reliability import reliability_diagrams
from .context import Context
from .part import Part, Values, needs_finite_logits, needs_labels


class Calibration(Part):
    name = "calibration"
    help = "how far confidence is from accuracy"
    metrics = METRICS

    def obstacle(self, context: Context) -> str | None:
        return needs_labels(self.name, context) or needs_finite_logits(self.name, context)

    def measure(self, context: Context) -> dict[str, Tensor]:
        assert context.labels is not None
        return {"rows": row_scores(context.logits, context.labels)}

    def summary(self, measured: dict[str, Tensor], settings: dict[str, Any]) -> Values:
        return {**summary(measured["rows"])}

    def details(self, measured: dict[str, Tensor], context: Context) -> dict[str, Any]:
        confidence, correct, _, _ = measured["rows"].unbind(1)
        return {"bins": bin_lists(bin_sums(confidence, correct))}

    def draw(self, measured: dict[str, Tensor], values: Values, context: Context, folder: Path) -> list[str]:
        title = diagram_title(context.subject.described["name"], values)
        figure = reliability_diagrams({title: self.details(measured, context)["bins"]})
        save_figure(figure, folder / "reliability.png")
        return ["reliability.png"]


def diagram_title(name: str, values: Values) -> str:
    """Of the reliability diagram of a model."""
    return f"{name}\naccuracy {values['accuracy']:.1f} %, ECE {values['ece']:.1f} %, OE {values['oe']:.1f} %"
