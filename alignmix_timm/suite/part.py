"""What a part of the evaluation is. To add one: a file with a subclass, and a line in ``parts``."""

import argparse
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from ..evaluation.metric import Metric
from .context import Context

Values = dict[str, float | None]


class Part(ABC):
    """Measures of one kind.

    Attributes:
        name: Of the part, for ``--suite``, ``evaluation.json`` and the prefix of its options.
        metrics: What it can return. A value that is there once for each of several sets has the key ``SET/KEY``.
        help: What it measures, in half a sentence.
    """

    name: ClassVar[str]
    metrics: ClassVar[tuple[Metric, ...]]
    help: ClassVar[str]

    def add_options(self, group: Any) -> None:  # noqa: B027
        """Add options to a group of an ``argparse`` parser; their flags begin with the name of the part."""

    def settings(self, options: argparse.Namespace) -> dict[str, Any]:
        """What the values depend on besides the model and the data, as JSON: a part is run again if it differs.

        Data are told by their hash, never by a path. Called in all processes alike, before anything else is loaded.

        Raises:
            ValueError: an option has a value that cannot be.
        """
        return {}

    def columns(self, options: argparse.Namespace) -> list[str]:
        """Columns of the data that the values depend on besides images and labels: a part is run again if they differ.

        There may be none of these names.
        """
        return []

    def obstacle(self, context: Context) -> str | None:
        """Why this part cannot be run here, as a sentence; None if it can. Called in all processes alike."""
        return needs_labels(self.name, context)

    @abstractmethod
    def measure(self, context: Context) -> dict[str, Tensor]:
        """Values of each row, [N, ...], the same in all processes: by :attr:`Context.logits`, :meth:`Context.over`."""

    @abstractmethod
    def summary(self, measured: dict[str, Tensor], settings: dict[str, Any]) -> Values:
        """The metrics, by key, from the values of the rows and nothing else, in the main process alone.

        None stands for a value that is not defined.
        """

    def details(self, measured: dict[str, Tensor], context: Context) -> dict[str, Any]:
        """What else belongs into ``evaluation.json``, as JSON: other data that were read, the points of a curve.

        In the main process alone.
        """
        return {}

    def draw(self, measured: dict[str, Tensor], values: Values, context: Context, folder: Path) -> list[str]:
        """Draw pictures into a folder, in the main process alone, and return their names.

        Raises:
            ImportError: matplotlib is not installed.
        """
        return []


def needs_classes(name: str, context: Context, classes: int = 2) -> str | None:
    """The obstacle of a part that needs a model of so many classes; None where there is none."""
    if context.subject.model.num_classes < classes:
        return f"{name} needs a model of at least {classes} classes, this one has {context.subject.model.num_classes}."
    return None


def needs_finite_logits(name: str, context: Context) -> str | None:
    """The obstacle of a part that needs confidences; None where all images have one."""
    broken = int((~context.logits.isfinite()).any(1).sum())
    return f"{name} needs confidences, and {broken} images have NaN or infinite logits." if broken else None


def needs_labels(name: str, context: Context, classes: int = 2) -> str | None:
    """The obstacle of a part that needs labels, and a model of so many classes; None where there is none."""
    if (few := needs_classes(name, context, classes)) is not None:
        return few
    return f"{name} needs labels: {context.unlabelled}" if context.labels is None else None
