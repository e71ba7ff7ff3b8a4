"""Values from a command line or YAML in the types of the fields that they are for."""

import argparse
import contextlib
import types
import typing
from collections.abc import Callable
from typing import Any, Literal, get_args, get_origin

from .nearest import nearest


def kinds_of(hint: Any) -> tuple[Any, ...]:
    """The members of a union, None last."""
    return get_args(hint) if get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def typed(name: str, hint: Any, value: Any) -> Any:
    """The value in the type of its field: YAML reads ``no`` as false and ``1e-3`` as text."""
    kinds = kinds_of(hint)
    if value is None and type(None) in kinds:
        return None
    kind, origin = kinds[0], get_origin(kinds[0])
    if origin is list and isinstance(value, list | tuple):
        return [typed(name, get_args(kind)[0], one) for one in value]
    if origin is Literal:
        value = "no" if value is False else value
        choices = get_args(kind)
        if value not in choices:
            raise ValueError(f"{name} must be among {choices}, got {value!r}.{nearest(str(value), choices)}")
        return value
    if kind is str and (value is False or isinstance(value, str)):
        return value or ("no" if value is False else "")
    if isinstance(value, str) and kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, origin or kind) and (kind is bool) == isinstance(value, bool):
        return value
    raise ValueError(f"{name} must be of type {getattr(kind, '__name__', kind)}, got {value!r}.")


def at_least(least: int) -> Callable[[str], int]:
    """The type of an option that is an integer of at least this."""

    def parsed(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"must be an integer >= {least}, got {text!r}")
        return int(text)

    return parsed
