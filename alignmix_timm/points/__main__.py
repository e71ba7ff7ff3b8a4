"""The table of support: ``python -m alignmix_timm.points MODEL...`` or ``--all``; advice with ``--images DATA``."""

import argparse
import json
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from ..typed import at_least
from . import built_for, choose_point
from .advice_command import add_advice_options, given_advice_options, print_advice
from .saved_table import read_table


def main(arguments: Sequence[str] | None = None) -> None:
    """Print where models of timm are mixed, or why they cannot be, one line each, and counts by family.

    With --images, what alignment does at the places of one trained model.
    """
    parser = argparse.ArgumentParser(prog="python -m alignmix_timm.points", description=main.__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="names of timm.list_models()")
    parser.add_argument("--all", action="store_true", help="every model of the installed timm")
    parser.add_argument("--image-size", type=at_least(1), help="default: the size each model was built for")
    parser.add_argument("--save", type=Path, help="JSON lines, one a model; models that are in the file are not redone")
    add_advice_options(parser)
    args = parser.parse_args(arguments)
    if args.images is not None:
        return print_advice(parser, args)
    if advice := given_advice_options(args):
        parser.error(f"only with --images: {', '.join(advice)}")
    if not args.models and not args.all:
        parser.error("name one or more models, or --all")
    known = timm.list_models()
    wanted = known if args.all else list(dict.fromkeys(args.models))
    if unknown := [name for name in wanted if name not in known]:
        parser.error(f"not in timm.list_models() of timm {timm.__version__}: {', '.join(unknown)}")
    logging.disable(logging.WARNING)
    families = {name: family for family in timm.list_modules() for name in timm.list_models(module=family)}
    try:
        saved = [] if args.save is None else read_table(args.save)
    except (OSError, ValueError) as error:
        parser.error(f"--save {error}")
    rows: dict[str, dict[str, Any]] = {}
    for name in wanted:
        key = {"model": name, "family": families[name], "image_size": args.image_size, "timm": timm.__version__}
        row = next((row for row in saved if key.items() <= row.items()), None)
        if row is None:
            row = {**key, **_row(name, args.image_size)}
            if args.save is not None:
                with args.save.open("a") as file:
                    file.write(json.dumps(row) + "\n")
        rows[name] = row
        where = row.get("refused") or f"{row['module']} {row['layout']} r={row['r']}, {row['reason']}"
        print(f"{name}: {where}", flush=True)
    supported = Counter(row["family"] for row in rows.values() if "refused" not in row)
    total = Counter(row["family"] for row in rows.values())
    print("\n" + ", ".join(f"{family} {supported[family]}/{total[family]}" for family in sorted(total)))
    print(f"{supported.total()} of {total.total()} supported, timm {timm.__version__}")


def create_without_data(name: str, **options: Any) -> nn.Module:
    """``timm.create_model`` on the meta device: the structure of a model of any size, in no memory."""
    try:
        with torch.device("meta"), _LinspaceOnCpu():
            return timm.create_model(name, **options)
    except NotImplementedError:  # the model computes its widths with operators that have no values on meta
        return timm.create_model(name, **options)


class _LinspaceOnCpu(TorchFunctionMode):
    """Older timm reads values, such as drop-path rates, from ``torch.linspace`` when it builds a model."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **{**(kwargs or {}), **({"device": "cpu"} if func is torch.linspace else {})})


def _row(name: str, image_size: int | None) -> dict[str, Any]:
    """Support of one model, created without data on the meta device."""
    model = create_without_data(name)
    try:
        point = choose_point(model, None if image_size is None else (built_for(model)[0], image_size, image_size))
    except ValueError as error:
        return {"refused": str(error)}
    height, width = point.map_size
    layout = f"{point.layout.kind}+{point.layout.num_prefix}" if point.layout.num_prefix else point.layout.kind
    return {"module": point.feature_module, "layout": layout, "r": height * width, "reason": point.reason}


if __name__ == "__main__":
    main()
