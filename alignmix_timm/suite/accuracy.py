"""The part ``accuracy``: top-1 and top-5 error."""

from typing import Any

from torch import Tensor

from ..evaluation.metric import Metric
from .context import Context
from .part import Part, Values

_K = 5


class Accuracy(Part):
    name = "accuracy"
    help = "top-1 and top-5 error"
    metrics = (
        Metric(
            "top1_error",
            "top-1 error %",
            "lower",
            "Share of images whose label is not the class of the largest logit, in percent; NaN logits are wrong.",
        ),
        Metric(
            "top5_error",
            "top-5 error %",
            "lower",
            "Share of images whose label is not among the classes of the five largest logits, in percent; NaN logits "
            "are wrong. Only for models of at least five classes.",
        ),
        Metric(
            "nan_logits", "images with NaN logits %", "lower", "Share of images with a logit that is NaN, in percent."
        ),
    )

    def measure(self, context: Context) -> dict[str, Tensor]:
        assert context.labels is not None
        logits = context.logits
        broken = logits.isnan().any(1)
        highest = logits.nan_to_num().topk(min(_K, logits.shape[1])).indices == context.labels[:, None]
        right = highest & ~broken[:, None]
        measured = {"top1": right[:, 0], "nan": broken}
        return measured | ({"top5": right.any(1)} if logits.shape[1] >= _K else {})

    def summary(self, measured: dict[str, Tensor], settings: dict[str, Any]) -> Values:
        wrong = {f"{name}_error": _percent(~measured[name]) for name in ("top1", "top5") if name in measured}
        return {**wrong, "nan_logits": _percent(measured["nan"])}


def _percent(true: Tensor) -> float:
    return 100 * true.double().mean().item()
