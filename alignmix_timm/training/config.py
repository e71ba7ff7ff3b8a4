"""The options of a training run: how they are checked, saved, and read from YAML and the command line."""

import argparse
import typing
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from ..nearest import nearest
from ..sinkhorn import check_cost_scale
from ..typed import typed
from .data_options import AugmentationOptions, DataOptions, ModelOptions
from .mixing import MixingOptions
from .option_ranges import check_lists, check_ranges
from .options import OptionGroup, argument, help_text, names_of
from .parsing import OneLineParser
from .training_options import OptimizationOptions, RunOptions

GROUPS: dict[str, type[OptionGroup]] = {
    "data": DataOptions,
    "model": ModelOptions,
    "augmentation": AugmentationOptions,
    "mixing": MixingOptions,
    "optimisation": OptimizationOptions,
    "run": RunOptions,
}

_SIZES = ("img_size", "input_size")


@dataclass
class TrainConfig(RunOptions, OptimizationOptions, MixingOptions, AugmentationOptions, ModelOptions, DataOptions):
    """Everything that decides a run; ``config.yaml`` in its folder holds the values used."""

    def check(self) -> None:
        """Bring the values into their types; raise ValueError for one outside its range."""
        check_cost_scale(self.cost_scale)
        hints = typing.get_type_hints(TrainConfig)
        for option in fields(self):
            setattr(self, option.name, typed(option.name, hints[option.name], getattr(self, option.name)))
        check_ranges(vars(self))
        for group in GROUPS.values():
            group.check(self)
        check_lists(vars(self))
        if not self.data and self.train_dir is None and not self.dry_run:
            raise ValueError("data must be the name of a dataset on the Hub or a folder: pass --data or --train-dir.")
        if self.layer_decay is not None and self.embedding != "none":
            raise ValueError(
                "layer_decay needs --embedding none: the encoder does not tell its backbone's layers apart."
            )
        if self.align_embedding and self.embedding != "tensor":
            raise ValueError(f"align_embedding needs --embedding tensor, got {self.embedding!r}.")
        if self.method != "alignmix" and (self.embedding == "none" or "alignmix" not in self.mixers):
            raise ValueError(
                f"method {self.method!r} needs --embedding flatten or tensor, and alignmix among --mixers."
            )

        if self.cache_images and self.jpeg_scaling:
            raise ValueError("jpeg_scaling must be off with cache_images, which decodes an image once for every crop.")

    def save(self, path: Path) -> None:
        """Write as YAML."""
        path.write_text(yaml.safe_dump(self.to_save(), sort_keys=False))

    def to_save(self) -> dict[str, Any]:
        """The values, with absolute paths where data and weights come from files: for use in any working directory."""
        values = asdict(self)
        for name in names_of(self, "source"):
            path = Path(values[name] or "").expanduser()
            if values[name] and path.exists():
                values[name] = str(path.absolute())
        return values


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Options from a YAML file, which an earlier version may have written.

    Raises:
        ValueError: no such file, or not a mapping of options; an unknown one is named with the nearest that exists.
    """
    try:
        values = yaml.safe_load(Path(path).read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"config must be a readable YAML file: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"config must hold 'option: value' lines, got {type(values).__name__} in {path}.")
    values = _renamed(values)
    names = [option.name for option in fields(TrainConfig)]
    for name in values:
        if name not in names:
            raise ValueError(f"{path} has an unknown option {name!r}.{nearest(str(name), names)}")
    return values


def _renamed(values: dict[str, Any]) -> dict[str, Any]:
    """Options by their names of today: ``aligned`` has become ``assignment``."""
    if "aligned" not in values:
        return values
    aligned = typed("aligned", bool, values["aligned"])
    others = {name: value for name, value in values.items() if name != "aligned"}
    return {"assignment": "transport" if aligned else "none", **others}


def find_config(path: str) -> Path:
    """The options of the checkpoint, or of the last checkpoint of the run, at this path."""
    within = Path(path) / "last" / "config.yaml"
    return within if within.exists() else Path(path) / "config.yaml"


def parse_config(
    argv: Sequence[str] | None = None,
    defaults: str | Path | None = None,
    description: str | None = None,
    prog: str | None = None,
) -> TrainConfig:
    """Options of a run: those of the command line, before those of ``--config``, before ``defaults``.

    Args:
        argv: Command line; default ``sys.argv[1:]``.
        defaults: YAML file of a recipe.
        description: Shown by ``--help``.
        prog: Name of the command; default that of the script.

    Raises:
        SystemExit: an unknown option, named with the nearest that exists, or a value outside its range.
    """
    parser = _parser(description, prog)
    given = vars(parser.parse_args(argv))
    try:
        files = [defaults, given.pop("config")]
        if given.get("eval_only"):
            files.append(find_config(given["eval_only"]))
        options: dict[str, Any] = {}
        for layer in (*(read_yaml(file) for file in files if file is not None), given):
            if layer.keys() & set(_SIZES):  # the size of a later layer replaces that of an earlier one, in either form
                options = {name: value for name, value in options.items() if name not in _SIZES}
            options |= layer
        if given.get("eval_only") and options.get("cost_scale") == "mean":
            del options["cost_scale"]  # no longer there to train with; evaluation does not align
        config = TrainConfig(**options)
        config.check()
    except (ValueError, TypeError) as error:
        parser.error(str(error))
    return config


def _parser(description: str | None, prog: str | None) -> OneLineParser:
    parser = OneLineParser(description, prog=prog, usage="%(prog)s --data DATA [OPTION ...]")
    parser.add_argument("-c", "--config", metavar="FILE", help="YAML file of options; the command line goes before it")
    hints = typing.get_type_hints(TrainConfig)
    for title, group in GROUPS.items():
        section = parser.add_argument_group(title, group.__doc__)
        for option in fields(group):
            flag = "--" + option.name.replace("_", "-")
            how = argument(hints[option.name])
            section.add_argument(flag, default=argparse.SUPPRESS, help=help_text(option), **how)
    gone: dict[str, Any] = dict(nargs=0, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    parser.add_argument("--aligned", "--no-aligned", action=_Replaced, **gone)
    return parser


class _Replaced(argparse.Action):
    """Say what to pass instead of ``--aligned``."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        now = "none" if option_string == "--no-aligned" else "transport"
        raise ValueError(f"{option_string} was removed: pass --assignment {now}.")
