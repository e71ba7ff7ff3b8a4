"""The documents do what they say: their Python runs, and their commands are those that the programs take.

pytest -m slow tests/test_documents.py    # runs the commands as well, on small models and data
"""

import argparse
import importlib.metadata
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch.distributed.run
from accelerate.commands.launch import launch_command_parser
from batch_probe import write_images
from documents import Block, blocks, commands, sides
from hub_server import ALICE, Hub, running_hub
from launcher import ENVIRONMENT, ROOT
from script_runs import SCRIPT
from training import EMBEDDED

from alignmix_timm import __main__ as command
from alignmix_timm.training import main as training
from alignmix_timm.training.parsing import OneLineParser

SHELL = blocks("bash")
START, DEVELOP = (
    next(block for block in SHELL if block.heading == name) for name in ("Start", "Develop")
)  # of .ci/run


def label(block: Block) -> str:
    return f"{block.document}-{block.heading}"


def test_every_block_is_run() -> None:
    kinds = {block.language for block in blocks()}
    assert kinds == {"python", "diff", "bash", "bibtex", "text"}
    fences = sum((ROOT / name).read_text().count("```") for name in {block.document for block in blocks()})
    assert fences == 2 * len(blocks())
    assert {block.document for block in SHELL} == {"README.md", "recipes/README.md", "hub/README.md"}


@pytest.mark.parametrize("block", [*blocks("python"), *blocks("diff")], ids=label)
def test_what_timm_does_not_import_itself_is_imported(block: Block) -> None:
    for name in re.findall(r"\b(timm\.(?:loss|task|optim|scheduler|utils))\.", block.text):
        assert re.search(rf"^[ +]?import {name}$", block.text, re.MULTILINE), name


def test_python_and_diffs_run(tmp_path: Path) -> None:
    programs = []
    for diff in blocks("diff"):
        for when, code in zip(("before", "after"), sides(diff.text), strict=True):
            small = code.replace("dataset, 224, 64, ", "dataset, 64, 8, num_workers=0, ")
            programs.append([f"{when} {label(diff)}", small, "loop"])
    for document in dict.fromkeys(block.document for block in blocks("python")):
        code = "\n".join(block.text for block in blocks("python") if block.document == document)
        programs.append([document, code.replace("USER/NAME", "alice/name"), ""])
    (tmp_path / "programs.json").write_text(json.dumps(programs))
    line = [sys.executable, str(ROOT / "tests" / "document_runner.py"), "programs.json"]
    with running_hub() as hub:
        environment = hub.environment(tmp_path / "home")
        done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    ran = [text.removeprefix("ran ") for text in done.stdout.splitlines() if text.startswith("ran ")]
    assert ran == [name for name, *_ in programs]


class ParsedError(Exception):
    """A program has read its options."""


def stops(read: Callable[..., Any]) -> Callable[..., Any]:
    """The same parser, after which the program ends."""

    def parse(*args: Any, **options: Any) -> Any:
        raise ParsedError(read(*args, **options))

    return parse


def check_program(start: Callable[[], Any], argv: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a program of this project read its arguments."""
    with monkeypatch.context() as patch:
        for parser in (argparse.ArgumentParser, OneLineParser):
            patch.setattr(parser, "parse_args", stops(parser.parse_args))
        patch.setattr(training, "parse_config", stops(training.parse_config))
        patch.chdir(ROOT)
        patch.syspath_prepend(ROOT / "recipes")
        patch.setattr(sys, "argv", argv)
        with pytest.raises(ParsedError):
            start()


def check_timm_script(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's own script, here one of timm's parts: ``alignmix-timm`` adds options to its parser."""
    script, data, *options = words
    assert (script, data) == ("train.py", "path/to/images")
    with monkeypatch.context() as patch:
        patch.setattr("timm.utils.init_distributed_device", stops(lambda args: args))  # the first thing after parsing
        patch.setattr(sys, "argv", ["alignmix-timm", str(SCRIPT), data, *options])
        with pytest.raises(ParsedError):
            command.main()


def check(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail unless the program of a command, or its parser, takes the arguments."""
    program, *rest = words
    if program == "accelerate":
        args = launch_command_parser().parse_args(rest[1:])
        program, rest = "python", [args.training_script, *args.training_script_args]
    if program == "python" and rest[0] == "-m":
        check_program(lambda: runpy.run_module(rest[1], run_name="__main__"), rest[1:], monkeypatch)
    elif program == "python":
        check_program(lambda: runpy.run_path(rest[0], run_name="__main__"), rest, monkeypatch)
    elif program == "torchrun":
        args = torch.distributed.run.get_args_parser().parse_args(rest)
        assert (args.module, args.training_script) == (True, "alignmix_timm.timm_train")
        check_timm_script(args.training_script_args, monkeypatch)
    elif program == "alignmix-timm" and rest[0].endswith(".py"):
        check_timm_script(rest, monkeypatch)
    elif program == "alignmix-timm":
        check_program(command.main, words, monkeypatch)
    elif program == "pip":
        (extra,) = re.findall(r"^install -q -e \.\[(\w+)\]$", " ".join(rest))
        assert extra in importlib.metadata.metadata("alignmix-timm").get_all("Provides-Extra", [])
    else:
        known = {"python3": "-m venv .venv", "source": ".venv/bin/activate", "hf": "auth login"}
        assert known.get(program) == " ".join(rest), f"no check of {words}"


@pytest.mark.parametrize("block", [block for block in SHELL if block != DEVELOP], ids=label)
def test_commands_are_taken(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    for words in commands(block.text):
        check([words[0].removeprefix(".venv/bin/"), *words[1:]], monkeypatch)


@pytest.mark.parametrize(
    "line",
    [
        "accelerate launch recipes/train.py --data path/to/folder --learning-rate 1",
        "accelerate launch --processes 2 recipes/quickstart.py",
        "python recipes/measure_pose.py",
        "python -m alignmix_timm.paper.figures a b",
        "python recipes/gone.py",
        "alignmix-timm push RUN_FOLDER",
        "alignmix-timm train.py path/to/images --mixup alignmix --alignmix-epsilon small",
        "torchrun --nproc 8 -m alignmix_timm.gone train.py path/to/images",
        ".venv/bin/pip install -q -e '.[drawing]'",
        "conda activate",
    ],
)
def test_commands_that_are_wrong_would_be_noticed(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (words,) = commands(line)
    with pytest.raises((SystemExit, AssertionError, OSError, ValueError)):
        check([words[0].removeprefix(".venv/bin/"), *words[1:]], monkeypatch)


def test_the_requirements_are_those_of_the_package() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    lowest = dict(re.findall(r'^ *"?([\w-]+)(?: = ")?>=(.*)",?$', text, re.MULTILINE))
    said = "Python {requires-python} or later; pip installs torch ({torch} or later) and timm ({timm} or later)"
    assert said.format(**lowest) in (ROOT / "README.md").read_text()


# What replaces the first of these that a command matches, and what is added at its end: later options count.
PATHS = {
    **{"path/to/fashion_mnist": str(EMBEDDED), "--nproc-per-node 8": "--nproc-per-node 2", "USER/NAME": "alice/name"},
    "evaluate quickstart": "evaluate RUN_FOLDER",
}
SMALL = {
    r"decode\.yaml": "--epochs 1 --max-train-samples 64 --batch-size 32 --warmup-epochs 0",
    r"--embedding flatten": "--model test_resnet --epochs 1 --batch-size 16 --workers 0 --decoder-width 4",
    r"recipes/train\.py": "--model test_resnet --no-pretrained --epochs 1 --batch-size 16 --img-size 64 --workers 0",
    r"recipes/quickstart\.py": "--epochs 1 --train-size 128",
    r"(alignmix-timm|timm_train) train\.py": "--model test_resnet --epochs 1",
    r"alignmix-timm evaluate": "--rows 20",
    r"hf auth login": f"--token {ALICE}",
}


def smaller(text: str) -> str:
    """A shell block with small models and the data of :func:`workplace`."""
    for old, new in PATHS.items():
        text = text.replace(old, new)
    parts = re.split(r"(\n|&&| +#.*)", text)
    for index, part in enumerate(parts):
        added = next((added for pattern, added in SMALL.items() if re.search(pattern, part)), "")
        parts[index] = f"{part.rstrip()} {added}" if added else part
    return "".join(parts)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a user has it: this project's files, own images, a script like timm's, and a run to publish."""
    folder = tmp_path_factory.mktemp("workplace")
    (folder / "recipes").symlink_to(ROOT / "recipes")
    shutil.copytree(ROOT / "hub", folder / "hub")  # hub/index.py writes
    shutil.copy(ROOT / "README.md", folder)
    write_images(folder / "path" / "to", 8, split="folder")
    write_images(folder / "path" / "to" / "images", 8)
    (folder / "train.py").symlink_to(SCRIPT)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / ".venv"], check=True)
    line = [sys.executable, "recipes/quickstart.py", *SMALL[r"recipes/quickstart\.py"].split(), "--out", "RUN_FOLDER"]
    subprocess.run(line, cwd=folder, env=ENVIRONMENT, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def hub() -> Any:
    with running_hub() as running:
        yield running


@pytest.mark.slow
@pytest.mark.parametrize("block", [block for block in SHELL if block not in (START, DEVELOP)], ids=label)
def test_commands_run(block: Block, workplace: Path, hub: Hub) -> None:
    """All but the two that ``.ci/run`` runs."""
    offline = {} if block.document.startswith("hub") else {"HF_HUB_OFFLINE": "1"}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = hub.environment(workplace / "home") | {"PATH": path, **offline}
    line = ["bash", "-euo", "pipefail", "-c", smaller(block.text)]
    done = subprocess.run(line, cwd=workplace, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
