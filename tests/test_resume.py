"""A run that is killed and resumed ends as if it had not been."""

from pathlib import Path

import pytest
from training import command, digest, finish, kill_when, reached, records, save_rows

MANY = pytest.param(4, marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_rows(tmp_path_factory.mktemp("data") / "rows", train=233, test=61)


@pytest.mark.parametrize("processes", [1, 2, MANY])
def test_killed_and_resumed_runs_end_alike(data: Path, tmp_path: Path, processes: int) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(command(data, whole, processes))
    kill_when(command(data, killed, processes), reached(killed, 5))
    finish(command(data, killed, processes, resume="auto"))
    assert digest(killed) == digest(whole)
    assert len(records(whole, "train")) == 14
