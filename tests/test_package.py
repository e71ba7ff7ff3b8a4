"""What a user installs."""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import yaml

import alignmix_timm

ROOT = Path(__file__).parent.parent


def test_wheel_holds_the_package_and_its_types(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", tmp_path / "wheel", ROOT], check=True, timeout=200)
    (wheel,) = (tmp_path / "wheel").glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", tmp_path / "site", wheel], check=True, timeout=200)
    assert (tmp_path / "site" / "alignmix_timm" / "py.typed").exists()
    beside = [file.relative_to(ROOT) for file in (ROOT / "alignmix_timm").rglob("*") if file.suffix in (".yaml", ".md")]
    assert len(beside) > 3
    assert not [file for file in beside if not (tmp_path / "site" / file).exists()]
    (installed,) = importlib.metadata.distributions(path=[str(tmp_path / "site")])
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert installed.metadata["Author"] == ", ".join(author["name"] for author in citation["authors"])
    assert installed.metadata.get_all("Project-URL") == [f"Paper, {citation['preferred-citation']['url']}"]
    command = [sys.executable, tmp_path / "site" / "bin" / "alignmix-timm", "--help"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    shown = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    assert "--alignmix-modes" in shown
    pushing = [*command[:2], "push", "--help"]
    shown = subprocess.run(pushing, env=environment, check=True, capture_output=True, text=True).stdout
    assert "USER/NAME" in shown
    script = "import alignmix_timm as a, alignmix_timm.evaluation.calibration; print(a.__file__, a.__version__)"
    printed = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
    ).stdout
    assert printed.split() == [str(tmp_path / "site/alignmix_timm/__init__.py"), alignmix_timm.__version__]


def test_public_names_exist_and_are_documented() -> None:
    for name in alignmix_timm.__all__:
        item = getattr(alignmix_timm, name)
        assert item.__doc__ or name in ("MODES", "Mode"), name
