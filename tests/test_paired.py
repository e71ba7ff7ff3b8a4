"""Runs that are compared in pairs: which are trained, and what happens to the others when one fails."""

import json
import math
import os
import signal
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
from launcher import ROOT

sys.path.insert(0, str(ROOT / "recipes"))  # of the processes that train, too
import paired

SETTINGS = [{"arm": "none", "seed": seed} for seed in range(3)]


def train(setting: dict[str, Any]) -> dict[str, float]:
    return {"error": float(setting["seed"])}


def die(setting: dict[str, Any]) -> dict[str, float]:
    """As at the hands of a kernel that is short of memory, with the last run."""
    if setting["seed"] == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return train(setting)


def diverge(setting: dict[str, Any]) -> dict[str, float]:
    return {"error": 90.0, "nll": math.nan if setting["seed"] == 2 else 1.0}


@pytest.mark.slow
def test_each_run_is_trained_once(tmp_path: Path) -> None:
    file = tmp_path / "runs.jsonl"
    file.write_text(json.dumps({**SETTINGS[1], "error": 7.0}) + "\n[3]\n")
    found = paired.train_all(SETTINGS, train, file, processes=1)
    assert [run["error"] for run in found] == [0.0, 7.0, 2.0]
    assert len(file.read_text().splitlines()) == 4
    args = Namespace(arms=["none", "uniform", "none"], seeds=[1, 0, 1], lr=0.1)
    settings = paired.settings_of(args, ["lr"])
    assert [(one["seed"], one["arm"]) for one in settings] == [(1, "none"), (1, "uniform"), (0, "none"), (0, "uniform")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("train", "kind", "said"),
    [
        (die, ChildProcessError, r"died\. .* try fewer --processes\. Finished runs are in .*runs\.jsonl, and are not"),
        (diverge, FloatingPointError, r"training diverged, and has no result: \{'arm': 'none', 'seed': 2\}"),
    ],
)
def test_a_run_that_fails_leaves_the_finished_ones(train: Any, kind: Any, said: str, tmp_path: Path) -> None:
    file = tmp_path / "runs.jsonl"
    with pytest.raises(kind, match=said):
        paired.train_all(SETTINGS, train, file, processes=1)
    assert [json.loads(line)["seed"] for line in file.read_text().splitlines()] == [0, 1]


def test_a_table_needs_its_results(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"results must be a file of finished runs for --table, got '.*none\.jsonl'"):
        paired.finished_runs(Namespace(table=True, results=tmp_path / "none.jsonl"))
    assert paired.finished_runs(Namespace(table=False, results=tmp_path / "none.jsonl")) == []


def test_lines_without_the_measures_are_no_runs(capsys: pytest.CaptureFixture[str]) -> None:
    runs = [{"arm": "none", "seed": 0, "error": 1.0}, {"arm": "none", "seed": 1}, {"error": 3}, [1]]
    paired.print_studies(runs, [], ["none"], {"error": "error %"}, {})
    assert capsys.readouterr().out.splitlines()[-1] == "| none | 1 | 1.00 |"
