"""The table of support: ``python -m alignmix_timm.points MODEL...`` or ``--all``."""

import argparse
import json
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch

from . import built_for, choose_point


def main(arguments: Sequence[str] | None = None) -> None:
    """Print where models of timm are mixed, or why they cannot be, one line each, and counts by family."""
    parser = argparse.ArgumentParser(prog="python -m alignmix_timm.points", description=main.__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="names of timm.list_models()")
    parser.add_argument("--all", action="store_true", help="every model of the installed timm")
    parser.add_argument("--image-size", type=int, help="default: the size each model was built for")
    parser.add_argument("--save", type=Path, help="JSON lines, one a model; models that are in the file are not redone")
    args = parser.parse_args(arguments)
    if not args.models and not args.all:
        parser.error("name one or more models, or --all")
    logging.disable(logging.WARNING)
    families = {name: family for family in timm.list_modules() for name in timm.list_models(module=family)}
    rows = {}
    if args.save is not None and args.save.exists():
        rows = {row["model"]: row for row in map(json.loads, args.save.read_text().splitlines())}
    wanted = timm.list_models() if args.all else args.models
    for name in wanted:
        if name not in rows:
            rows[name] = {"model": name, "family": families.get(name, "?"), **_row(name, args.image_size)}
            if args.save is not None:
                with args.save.open("a") as file:
                    file.write(json.dumps(rows[name]) + "\n")
        row = rows[name]
        where = row.get("error") or f"{row['module']} {row['layout']} r={row['r']}, {row['reason']}"
        print(f"{name}: {where}")
    supported = Counter(rows[name]["family"] for name in wanted if "error" not in rows[name])
    total = Counter(rows[name]["family"] for name in wanted)
    print("\n" + ", ".join(f"{family} {supported[family]}/{total[family]}" for family in sorted(total)))
    print(f"{supported.total()} of {total.total()} supported, timm {timm.__version__}")


def _row(name: str, image_size: int | None) -> dict[str, Any]:
    """Support of one model, created without data on the meta device."""
    try:
        with torch.device("meta"):
            model = timm.create_model(name)
        size = None if image_size is None else (built_for(model)[0], image_size, image_size)
        point = choose_point(model, size)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    height, width = point.map_size
    layout = f"{point.layout.kind}+{point.layout.num_prefix}" if point.layout.num_prefix else point.layout.kind
    return {"module": point.feature_module, "layout": layout, "r": height * width, "reason": point.reason}


main()
