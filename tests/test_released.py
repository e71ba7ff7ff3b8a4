"""The index of released models: what README shows is what the files say."""

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import timm
from huggingface_hub import ModelCardData
from launcher import ENVIRONMENT, ROOT

from alignmix_timm import save_for_timm
from alignmix_timm.publishing.card import card_data
from alignmix_timm.publishing.provenance import Provenance
from alignmix_timm.publishing.save import load_for_timm
from alignmix_timm.publishing.verify import check_folder

INDEX = runpy.run_path(str(ROOT / "hub" / "index.py"))
ENTRIES = sorted((ROOT / "hub").glob("*.json"))


def test_the_table_of_the_readme_is_that_of_the_files() -> None:
    text = (ROOT / "README.md").read_text()
    assert ENTRIES
    assert INDEX["with_table"](text, INDEX["table"]()) == text


@pytest.mark.parametrize("path", ENTRIES, ids=lambda path: path.stem)
def test_an_entry_says_what_a_card_needs(path: Path) -> None:
    entry = json.loads(path.read_text())
    run = Provenance.from_dict(entry["run"])
    assert run.to_dict() == entry["run"]
    row = next(line for line in INDEX["table"]().splitlines() if path.name in line)
    assert f"| {run.dataset.train_rows:,} | {run.dataset.eval_rows:,} |" in row
    assert re.fullmatch("[0-9a-f]{64}", entry["sha256"])
    assert entry["architecture"] == path.stem.partition(".")[0]
    data = card_data({}, run, entry["repository"] or "user/name")
    assert [result.metric_value for result in data.eval_results] == list(run.results.values())
    assert ModelCardData(**data.to_dict()).to_dict() == data.to_dict()


def test_an_entry_is_made_from_the_folder_of_a_model(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    save_for_timm(
        timm.create_model("test_resnet", num_classes=1),
        folder,
        ["only"],
        {"input_size": (3, 32, 32), "mean": (0.5,) * 3, "std": (0.5,) * 3, "crop_pct": 1.0},
        provenance=Provenance.from_dict(json.loads(ENTRIES[0].read_text())["run"]),
    )
    entry = INDEX["describe"](folder)
    assert entry["bytes"] == (folder / "model.safetensors").stat().st_size
    assert entry["run"] == json.loads(ENTRIES[0].read_text())["run"]
    assert (entry["repository"], entry["evaluation"]) == (None, None)
    results = {"model": {"sha256": entry["sha256"]}, "data": {"name": "/home/somebody/data"}, "parts": {"ood": {}}}
    (tmp_path / "model-evaluation").mkdir()
    (tmp_path / "model-evaluation" / "evaluation.json").write_text(json.dumps(results))
    assert INDEX["describe"](folder)["evaluation"] == {**results, "data": {"name": "data"}}


@pytest.mark.slow
def test_the_first_entry_is_built_by_its_command(tmp_path: Path) -> None:
    entry = json.loads((ROOT / "hub" / "test_resnet.alignmix_fashion_mnist.json").read_text())
    _, _, script, *options = entry["run"]["command"].split()
    line = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes=1", str(ROOT / script), *options]
    subprocess.run(line, cwd=tmp_path, env=ENVIRONMENT, check=True, timeout=1200)
    assert "bit-equal" in check_folder(tmp_path / "quickstart" / "model")
    built = INDEX["describe"](tmp_path / "quickstart" / "model")
    assert built["run"]["options"] == entry["run"]["options"]
    assert abs(built["run"]["results"]["top1"] - entry["run"]["results"]["top1"]) < 2  # the weights differ by machine
    assert load_for_timm(tmp_path / "quickstart" / "model").num_classes == entry["num_classes"]
