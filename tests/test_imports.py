"""The map of the package: imports go down only, and no file is long. Imports within functions count as well."""

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from launcher import ROOT

PACKAGE = ROOT / "alignmix_timm"
NAME = PACKAGE.name

BASE = "alignment functional mixers nearest params points seeds sinkhorn targets typed"
WRAPPER = f"{BASE} attaching collate hooks model timm_interface"

# What each folder, and each module beside the folders, may import of the others. From the bottom to the top.
ALLOWED = {
    "nearest": "",
    "typed": "nearest",
    "seeds": "",
    "targets": "",
    "timm_interface": "",
    "sinkhorn": "",
    "functional": "sinkhorn",
    "params": "seeds",
    "alignment": "functional params sinkhorn",
    "mixers": "functional nearest params seeds targets typed",
    "evaluation": "",
    "points": "alignment evaluation functional nearest sinkhorn typed",
    "hooks": "alignment functional params points sinkhorn",
    "attaching": "alignment hooks points",
    "model": f"{BASE} attaching hooks timm_interface",
    "collate": "mixers params targets",
    "dropin": f"{BASE} attaching hooks",
    "networks": WRAPPER,
    "publishing": "attaching",
    "timm_train": f"{BASE} dropin",
    "training": f"{WRAPPER} evaluation networks publishing",
    "suite": f"{WRAPPER} evaluation networks publishing training",
    "paper": f"{WRAPPER} evaluation networks publishing suite training",
    "__init__": f"{WRAPPER} dropin networks publishing",
    "__main__": "evaluation paper points publishing suite timm_train training",  # the table of commands
}
MOST_LINES, MOST_FILES = 250, 15


def module_of(file: Path) -> str:
    """The name of a file's module in the package: ``a`` for ``a/__init__.py``, ``__init__`` for that of the root."""
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and parts[1:] else parts)


FILES = {module_of(file): file for file in sorted(PACKAGE.rglob("*.py"))}


def known(name: str) -> str:
    """The module that ``alignmix_timm.a.b`` names, or is a member of."""
    parts = name.split(".")[1:]
    while parts and ".".join(parts) not in FILES:
        parts.pop()
    return ".".join(parts) or "__init__"


def imported(text: str, file: Path) -> Iterator[str]:
    """The modules of the package that the text of one of its files imports, wherever it does."""
    package = (NAME, *file.relative_to(PACKAGE).parent.parts)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else ()
            base = [*above, *([node.module] if node.module else [])]
            names = [".".join([*base, alias.name]) for alias in node.names]
        else:
            continue
        yield from (known(name) for name in names if name.split(".")[0] == NAME)


IMPORTS = {module: set(imported(file.read_text(), file)) for module, file in FILES.items()}
IMPORTS["publishing.load_plain"].remove("__init__")  # in a process of its own, to register networks or be refused


def test_imports_are_found_however_they_are_written() -> None:
    text = """
import torch, alignmix_timm.seeds as s
from alignmix_timm.sinkhorn import assign
from .. import params
from ...points.maps import FeatureMaps
from .batches import plan_batches
from ... import __version__
def later():
    if True:
        from ..trainer import Run
"""
    found = set(imported(text, PACKAGE / "training" / "data" / "new.py"))
    assert found == {
        *("seeds", "sinkhorn", "training", "points.maps", "training.data.batches", "__init__", "training.trainer")
    }


def test_the_table_names_every_folder_and_module_and_has_no_circle() -> None:
    assert ALLOWED.keys() == {module.partition(".")[0] for module in FILES}
    order = list(ALLOWED)
    for room, below in ALLOWED.items():
        assert set(below.split()) <= set(order[: order.index(room)]), room


@pytest.mark.parametrize("room", ALLOWED)
def test_imports_go_down_only(room: str) -> None:
    arrows = {
        (module, target)
        for module, targets in IMPORTS.items()
        for target in targets
        if module.partition(".")[0] == room != target.partition(".")[0]
    }
    upward = {arrow for arrow in arrows if arrow[1].partition(".")[0] not in ALLOWED[room].split()}
    assert not upward


def test_modules_import_each_other_in_no_circle() -> None:
    graphlib.TopologicalSorter(IMPORTS).prepare()  # raises CycleError


def test_no_file_is_long_and_the_root_is_small() -> None:
    lines = {module: len(file.read_text().splitlines()) for module, file in FILES.items()}
    assert not {module: count for module, count in lines.items() if count > MOST_LINES}
    assert len(list(PACKAGE.glob("*.py"))) <= MOST_FILES
