"""``--mixup NAME`` and the options beside it, for any parser that has a ``--mixup`` of type float."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import yaml

from ..alignment import Alignment
from ..mixers import MIXERS, AlignMixup
from ..params import MODES, Mode, check_no_clean

_DEST = "alignmix_"  # of argparse.Namespace and config.yaml


def names() -> list[str]:
    """The words that ``--mixup`` takes: the mixers, but none."""
    return [name for name in MIXERS if name != "none"]


class Requested(float):
    """``--mixup NAME`` as parsed: a float > 0 for the script, written to args.yaml as the name of the mixer.

    The word makes args.yaml fail where the launcher is not there to read it.
    """

    name: str

    def __new__(cls, name: str) -> "Requested":
        made = super().__new__(cls, 1.0)
        made.name = name
        return made

    def __repr__(self) -> str:
        return self.name

    __str__ = __repr__


for _dumper in (yaml.SafeDumper, yaml.Dumper):
    _dumper.add_representer(Requested, lambda dumper, value: dumper.represent_str(str(value)))


@dataclass(frozen=True)
class Options:
    """The ``--alignmix-*`` options.

    Raises:
        ValueError: a value outside its range.
    """

    alpha: float = AlignMixup.alpha
    modes: Sequence[Mode] = MODES
    lam: Literal["example", "batch"] = "example"
    epsilon: float = Alignment.epsilon
    feature_module: str | int | None = None
    align_size: int | None = None

    def __post_init__(self) -> None:
        self.mixer()
        check_no_clean(self.modes)
        Alignment(self.epsilon)
        if self.lam not in ("example", "batch"):
            raise ValueError(f"lam must be 'example' or 'batch', got {self.lam!r}.")
        if self.align_size is not None and self.align_size < 1:
            raise ValueError(f"align_size must be >= 1, got {self.align_size}.")

    def mixer(self) -> AlignMixup:
        """AlignMix with these options."""
        return AlignMixup(self.alpha, self.modes, per_example=self.lam == "example")

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


def mixer_args(args: argparse.Namespace) -> dict[str, Any]:
    """``--mixer-args``, from the command line or, as a mapping, from config.yaml; values as YAML.

    Raises:
        ValueError: not NAME=VALUE.
    """
    given = getattr(args, "mixer_args", {})
    if isinstance(given, dict):
        return given
    pairs = [text.partition("=") for text in given]
    wrong = [text for text, (_, equals, _) in zip(given, pairs, strict=True) if not equals]
    if wrong:
        raise ValueError(f"--mixer-args must be NAME=VALUE, got {wrong[0]!r}.")
    return {name: yaml.safe_load(value) for name, _, value in pairs}


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
    add("epsilon", type=float, metavar="E", help=f"regularisation of the alignment (default: {Options.epsilon})")
    add("feature-module", type=_name_or_index, metavar="NAME", help="where to mix features (default: chosen, printed)")
    parser.add_argument(
        "--mixer-args",
        nargs="+",
        default=argparse.SUPPRESS,
        metavar="NAME=VALUE",
        help="options of another mixer than alignmix, such as alpha=1",
    )
    add("align-size", type=int, metavar="N", help="align maps at N x N at most (default: their own size)")


def accepting_alignmix(
    add_argument: Callable[..., argparse.Action], on_request: Callable[[], None]
) -> Callable[..., argparse.Action]:
    """``add_argument`` that lets ``--mixup`` take the word, and adds the other options beside it."""

    def mixup(text: str) -> float:
        if text.strip() not in names():
            return float(text)
        on_request()
        return Requested(text.strip())

    mixup.__name__ = f"{', '.join(names())} or float"  # argparse: invalid ... value

    def wrapped(parser: argparse._ActionsContainer, *flags: Any, **options: Any) -> argparse.Action:
        takes_mixup = "--mixup" in flags and options.get("type") is float
        if takes_mixup:
            options["type"] = mixup
            options["help"] = f"{options.get('help') or ''}; or {', '.join(names())}"
        action = add_argument(parser, *flags, **options)
        if takes_mixup:
            add_options(parser)
        return action

    return wrapped


def _name_or_index(text: str) -> str | int:
    return int(text) if text.removeprefix("-").isdigit() else text
