"""What the commands of README.md do to a checkout: they run one after the other, and what they write is in no way."""

import re
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from launcher import ROOT

from alignmix_timm.training.config import TrainConfig

CODE = ("alignmix_timm", "recipes", "hub", "tests")


def written() -> set[str]:
    """Files and folders that commands write where no other is named."""
    found = {str(option.default) for option in fields(TrainConfig) if option.name == "output"}
    for path in (ROOT / "recipes" / "configs").glob("*.yaml"):
        found |= {text for name, text in yaml.safe_load(path.read_text()).items() if name == "output"}
    option = re.compile(r'"--(?:out|output|save)",.*default=(?:Path\()?"([^"]+)"')
    for path in (*(ROOT / "recipes").glob("*.py"), *(ROOT / "alignmix_timm").rglob("*.py")):
        found |= set(option.findall(path.read_text()))
    return found


def test_folders_of_runs_do_not_change_what_ruff_says(tmp_path: Path) -> None:
    """A folder with the name of a recipe would make ``import quickstart`` first-party."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for name in CODE:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("data", "__pycache__"))
    modules = {path.stem for name in CODE for path in (ROOT / name).rglob("*.py")} - {"__init__", "__main__"}
    for name in {*written(), *modules}:
        folder = tmp_path / name / "model"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
    line = [sys.executable, "-m", "ruff", "check", "--no-cache", "."]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no checkout")
def test_git_ignores_what_commands_write() -> None:
    names = written()
    assert {"quickstart", "run", "finetuned", "trainer", "runs/cub", "pictures", "compare_points.jsonl"} <= names
    folders = {f"{name}/file" for name in names if "." not in name}
    folders |= {f"{name}-dry-run/file" for name in names if "." not in name}
    paths = folders | {name for name in names if "." in name} | {"points.jsonl", "output/train/args.yaml"}
    line = ["git", "check-ignore", "--no-index", *paths]
    ignored = subprocess.run(line, cwd=ROOT, capture_output=True, text=True).stdout.splitlines()
    assert paths == set(ignored)
    tracked = subprocess.run(["git", "ls-files", "-ci", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    assert not tracked.stdout


def ci(folder: Path, readme: str) -> subprocess.CompletedProcess[str]:
    """Run ``.ci/run`` where README.md is another."""
    shutil.copytree(ROOT / ".ci", folder / ".ci")
    (folder / "README.md").write_text(readme)
    return subprocess.run([folder / ".ci" / "run"], cwd=folder.parent, capture_output=True, text=True)


def section(heading: str, *commands: str) -> str:
    return f"## {heading}\n\nText.\n\n```bash\n{chr(10).join(commands)}\n```\n\n```bash\necho another block\n```\n\n"


def test_ci_runs_start_and_develop_of_the_readme_in_this_order(tmp_path: Path) -> None:
    start, develop = "mkdir quickstart && echo 'it''s started'", "ls -d quickstart && echo developed"
    readme = section("Develop", develop) + section("Use", "echo used") + section("Start", start)
    done = ci(tmp_path / "good", readme)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"+ {start}", "its started", f"+ {develop}", "quickstart", "developed"]


@pytest.mark.parametrize(
    "readme",
    [
        section("Start", "false && true") + section("Develop", "echo developed"),
        section("Start", "false", "echo started") + section("Develop", "echo developed"),
        section("Start", "echo started") + section("Develop", "echo tests", "false"),
        section("Start", "echo started") + section("Developing", "echo developed"),
    ],
)
def test_ci_fails_where_a_command_fails_or_is_missing(tmp_path: Path, readme: str) -> None:
    done = ci(tmp_path / "bad", readme)
    assert done.returncode != 0
    assert "developed" not in done.stdout.splitlines()
