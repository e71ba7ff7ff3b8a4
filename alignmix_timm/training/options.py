"""Fields of a dataclass as options: how the command line and YAML give them their values."""

import argparse
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, Literal, get_args, get_origin

import yaml

from ..typed import kinds_of

Role = Literal["run", "source", "model", "optimizer", "call"]


@dataclass
class OptionGroup:
    """Options that belong together."""

    def check(self) -> None:
        """Raise ValueError for a value outside its range."""


def option(default: Any, text: str, role: Role = "run") -> Any:
    """A field of a dataclass of options.

    Args:
        default: Of the field; a list or dict is copied for each instance.
        text: Shown by ``--help``.
        role: What it decides, and so whether it may change once there is a checkpoint: ``run``, the course of a run,
            may, with a warning; ``source`` likewise, but as a place of this machine it is not published; ``model`` and
            ``optimizer``, what is in the state of either, may not; ``call``, only how this call goes, may freely.
    """
    metadata = {"help": text, "role": role}
    if isinstance(default, dict | list):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def names_of(options: Any, *roles: Role) -> list[str]:
    """Names of the fields that have one of these roles."""
    return [one.name for one in fields(options) if one.metadata["role"] in roles]


def argument(hint: Any) -> dict[str, Any]:
    """How argparse reads a field of this type: as text, which :func:`typed` checks as it does that of YAML."""
    kind = kinds_of(hint)[0]
    if get_origin(kind) is Literal:
        return {"metavar": "{" + ",".join(get_args(kind)) + "}"}
    if get_origin(kind) is list:
        return {"nargs": "*", **argument(get_args(kind)[0])}
    if get_origin(kind) is dict:
        return {"nargs": "*", "action": _Pairs, "metavar": "NAME=VALUE"}
    if kind is bool:
        return {"action": argparse.BooleanOptionalAction}
    return {"metavar": {int: "N", float: "X"}.get(kind, "TEXT")}


def help_text(option: Field[Any]) -> str:
    """What ``--help`` says of a field: its text and its default."""
    default = option.default if option.default_factory is MISSING else option.default_factory()
    text = option.metadata["help"]
    if default is None or default in ("", [], {}):
        return text
    if isinstance(default, bool):
        default = "on" if default else "off"
    words = " ".join(map(str, default)) if isinstance(default, list) else default
    return f"{text} (default: {words})".replace("%", "%%")


class _Pairs(argparse.Action):
    """Read ``name=value`` pairs, values as YAML."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        wrong = [pair for pair in values if "=" not in pair]
        if wrong:
            raise ValueError(f"{option_string} must be name=value, got {wrong[0]!r}.")
        pairs = (pair.partition("=") for pair in values)
        setattr(namespace, self.dest, {name: yaml.safe_load(value) for name, _, value in pairs})
