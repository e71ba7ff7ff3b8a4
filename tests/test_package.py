"""What a user installs."""

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from launcher import ENVIRONMENT
from training import save_rows

import alignmix_timm
from alignmix_timm.publishing.provenance import versions

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


def test_a_package_without_metadata_has_the_version_that_it_states(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stating_one.py").write_text("__version__ = '1.2.3'\n")
    (tmp_path / "stating_none.py").touch()
    (tmp_path / "failing_one.py").write_text("import a_module_that_is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = versions(["stating-one", "stating-none", "failing-one", "absent-one", "numpy"])
    assert found == {"python": platform.python_version(), "stating-one": "1.2.3", "numpy": np.__version__}


@pytest.mark.slow
def test_a_checkout_that_is_not_installed_trains(tmp_path: Path) -> None:
    """The package on the path, without metadata; of what is installed all but itself, and no ``.pth`` files."""
    shutil.copytree(ROOT / "alignmix_timm", tmp_path / "checkout" / "alignmix_timm")
    path = [str(tmp_path / "checkout")]
    for number, folder in enumerate(one for one in sys.path if one.endswith("site-packages")):
        linked = tmp_path / f"site-{number}"
        linked.mkdir()
        for item in Path(folder).iterdir():
            if "alignmix_timm" not in item.name:
                (linked / item.name).symlink_to(item)
        path.append(str(linked))
    data, output = save_rows(tmp_path / "data", 32, 16), tmp_path / "run"
    line = [sys.executable, "-S", "-m", "alignmix_timm", "train", "--data", str(data), "--output", str(output)]
    line += ["--model", "test_resnet", "--img-size", "32", "--batch-size", "16", "--epochs", "1", "--workers", "0"]
    environment = {**ENVIRONMENT, "PYTHONPATH": os.pathsep.join(path)}
    subprocess.run(line, cwd=tmp_path, env=environment, check=True, timeout=300)
    found = json.loads((output / "versions.json").read_text())
    assert found["alignmix-timm"] == alignmix_timm.__version__
    saved = json.loads((output / "model" / "provenance.json").read_text())
    assert saved["run"]["versions"]["alignmix-timm"] == alignmix_timm.__version__
