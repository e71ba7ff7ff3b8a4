"""What the labels of data mean to a model: indices of its classes."""

from typing import Any

import datasets
import torch
from timm.utils import natural_key
from torch import Tensor

from ..training.data.labels import is_integer, is_string

_SHOWN = 5


def class_indices(
    rows: datasets.Dataset, column: str, names: list[str] | None, classes: int, by_number: bool = False
) -> tuple[Tensor, str]:
    """The label of each row as the index of a class of the model.

    Where both the model and the data name their classes, these are matched by name; otherwise by number, which data
    with as many classes as the model allow, or integers without names. Strings count as the numbers of their sorted
    values, folders of classes among them, as timm sorts them.

    Args:
        rows: With the column.
        column: Of classes, integers or strings.
        names: Names of the classes of the model; None if it stores none.
        classes: How many it has.
        by_number: Match by number though both name their classes.

    Returns:
        Indices [N], and how they were matched, in words.

    Raises:
        ValueError: a label is missing or means no class of the model; the message says which.
    """
    feature = rows.features[column]
    values = rows.select_columns([column])[:][column]  # of all columns, images would be read, too
    own = _names_of(feature, values)
    if any(value is None or (isinstance(value, int) and value < 0) for value in values):
        raise ValueError(
            f"{column!r} must be a class in every row, got None or a negative number. Pass --split: the labels of a "
            "test split are often hidden."
        )
    if own is None and names is not None and not by_number and all(name.isdigit() for name in names):
        own, values = sorted({str(value) for value in values}), [str(value) for value in values]  # classes 3, 5, 7
        return _by_name(values, own, names, column), "by name"
    if own is not None and names is not None and not by_number:
        return _by_name(_named(feature, values), own, names, column), "by name"
    if own is not None and len(own) != classes:
        raise ValueError(
            f"{column!r} must have the {classes} classes of the model, which stores no names of them, got {len(own)}: "
            f"{_listed(own)}. Pass data of the classes that it was trained with."
        )
    if is_string(feature):
        assert own is not None
        numbers = {name: number for number, name in enumerate(own)}
        values = [numbers[value] for value in values]
    indices = torch.tensor(values, dtype=torch.long)
    if int(indices.max()) >= classes:
        raise ValueError(
            f"{column!r} must be in [0, {classes}), the classes of the model, got {int(indices.max())}. Pass data of "
            "the classes that it was trained with."
        )
    return indices, "by number"


def _names_of(feature: Any, values: list[Any]) -> list[str] | None:
    """The names of the classes of a column; None for integers without names."""
    if isinstance(feature, datasets.ClassLabel):
        return list(feature.names)
    if is_string(feature):
        return sorted({value for value in values if value is not None}, key=natural_key)
    if not is_integer(feature):
        raise ValueError(f"label_column must hold classes, integers or strings, got {feature}. Pass --label-column.")
    return None


def _named(feature: Any, values: list[Any]) -> list[str]:
    return [feature.names[value] for value in values] if isinstance(feature, datasets.ClassLabel) else values


def _by_name(values: list[str], own: list[str], names: list[str], column: str) -> Tensor:
    numbers = {name: number for number, name in enumerate(names)}
    if unknown := sorted(set(values) - numbers.keys()):
        raise ValueError(
            f"{column!r} has {len(unknown)} of {len(own)} classes that the model does not have: {_listed(unknown)}. It "
            f"has {_listed(names)}. Rename them, or pass --by-number if they are the same in the same order."
        )
    return torch.tensor([numbers[value] for value in values], dtype=torch.long)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(repr, names[:_SHOWN])) + more
