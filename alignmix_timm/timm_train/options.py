"""``--mixup alignmix`` and the ``--alignmix-*`` options, for any parser that has a ``--mixup`` of type float."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import yaml

from ..params import MODES, Mode, check_draw_options, check_no_clean
from ..sinkhorn import check_options

_DEST = "alignmix_"  # of argparse.Namespace and config.yaml


class Requested(float):
    """``--mixup alignmix`` as parsed: a float > 0 for the script, written to args.yaml as the word.

    The word makes args.yaml fail where the launcher is not there to read it.
    """

    def __new__(cls) -> "Requested":
        return super().__new__(cls, 1.0)

    def __repr__(self) -> str:
        return "alignmix"

    __str__ = __repr__


for _dumper in (yaml.SafeDumper, yaml.Dumper):
    _dumper.add_representer(Requested, lambda dumper, value: dumper.represent_str(str(value)))


@dataclass(frozen=True)
class Options:
    """The ``--alignmix-*`` options.

    Raises:
        ValueError: a value outside its range.
    """

    alpha: float = 2.0
    modes: Sequence[Mode] = MODES
    lam: Literal["example", "batch"] = "example"
    epsilon: float = 0.02
    feature_module: str | int | None = None
    align_size: int | None = None

    def __post_init__(self) -> None:
        check_draw_options(self.alpha, self.modes)
        check_no_clean(self.modes)
        check_options(self.epsilon, 20, "mean")
        if self.lam not in ("example", "batch"):
            raise ValueError(f"lam must be 'example' or 'batch', got {self.lam!r}.")
        if self.align_size is not None and self.align_size < 1:
            raise ValueError(f"align_size must be >= 1, got {self.align_size}.")

    def __str__(self) -> str:
        given = {name: value for name, value in vars(self).items() if value is not None}
        return ", ".join(f"{name}={'/'.join(given[name]) if name == 'modes' else given[name]}" for name in given)

    @classmethod
    def of(cls, args: argparse.Namespace) -> "Options":
        """Those that were given on the command line or in config.yaml."""
        given = {name: getattr(args, _DEST + name) for name in given_in(args)}
        if "modes" in given:
            words = [given["modes"]] if isinstance(given["modes"], str) else given["modes"]
            given["modes"] = tuple(",".join(words).split(","))
        return cls(**given)


def given_in(args: argparse.Namespace) -> list[str]:
    """Names of the fields of :class:`Options` that were given."""
    return [field.name for field in fields(Options) if getattr(args, _DEST + field.name, None) is not None]


def option_name(name: str) -> str:
    """As on the command line."""
    return "--alignmix-" + name.replace("_", "-")


def add_options(parser: argparse._ActionsContainer) -> None:
    """Add the ``--alignmix-*`` options. One that is not given leaves no trace in the parsed arguments."""

    def add(name: str, **options: Any) -> None:
        parser.add_argument(f"--alignmix-{name}", default=argparse.SUPPRESS, **options)

    add("alpha", type=float, metavar="A", help="lam ~ Beta(A, A) (default: 2)")
    add("modes", nargs="+", metavar="MODE", help=f"what to mix, drawn per batch (default: {' '.join(MODES)})")
    add("lam", choices=["example", "batch"], help="one lam for each example or for each batch (default: example)")
    add("epsilon", type=float, metavar="E", help="entropic regularisation of the alignment (default: 0.02)")
    add("feature-module", type=_name_or_index, metavar="NAME", help="where to mix features (default: chosen, printed)")
    add("align-size", type=int, metavar="N", help="align maps at N x N at most (default: their own size)")


def accepting_alignmix(
    add_argument: Callable[..., argparse.Action], on_request: Callable[[], None]
) -> Callable[..., argparse.Action]:
    """``add_argument`` that lets ``--mixup`` take the word, and adds the other options beside it."""

    def mixup(text: str) -> float:
        if text.strip() != "alignmix":
            return float(text)
        on_request()
        return Requested()

    mixup.__name__ = "'alignmix' or float"  # argparse: invalid ... value

    def wrapped(parser: argparse._ActionsContainer, *names: Any, **options: Any) -> argparse.Action:
        takes_mixup = "--mixup" in names and options.get("type") is float
        if takes_mixup:
            options["type"] = mixup
            options["help"] = f"{options.get('help') or ''}; or 'alignmix'"
        action = add_argument(parser, *names, **options)
        if takes_mixup:
            add_options(parser)
        return action

    return wrapped


def _name_or_index(text: str) -> str | int:
    return int(text) if text.removeprefix("-").isdigit() else text
