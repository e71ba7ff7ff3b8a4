"""The core on the oldest supported versions, installed together into an environment of their own.

pytest -m slow tests/test_oldest.py    # downloads about 3 GB
"""

import subprocess
import sys
from pathlib import Path

import pytest
from launcher import ENVIRONMENT, ROOT

CORE = (
    "points model hooks alignment collate params layout functional networks encoder algorithm1 compile distributed "
    "recipes resume"
)


def oldest() -> list[str]:
    """The requirements of pyproject.toml at their lower bounds."""
    lines = (ROOT / "pyproject.toml").read_text().split("dependencies = [")[1].split("]")[0]
    return [line.strip(' ",').replace(">=", "==") for line in lines.strip().splitlines()]


@pytest.mark.slow
def test_the_core_on_the_oldest_versions(tmp_path: Path) -> None:
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    install = [str(python), "-m", "pip", "install", "--quiet", *oldest(), f"{ROOT}[test]"]
    installed = subprocess.run(install, capture_output=True, text=True)
    assert installed.returncode == 0, installed.stderr[-2000:]
    files = [f"tests/test_{name}.py" for name in CORE.split()]
    line = [str(python), "-m", "pytest", "-q", *files]
    done = subprocess.run(line, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:]
