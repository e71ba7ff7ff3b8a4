"""A run that is killed and resumed ends as if it had not been."""

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest
from training import command, digest, finish, kill_when, reached, records, save_rows

from alignmix_timm.training.journal import read_journal


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_rows(tmp_path_factory.mktemp("data") / "rows", train=233, test=61)


ENCODER = dict(model="preact_resnet18", model_args="width=4", embedding="flatten", embed_dim=16, decoder_width=4)
AE, VAE = (
    {**ENCODER, "mixers": "alignmix", "method": method, "micro_batch_size": 8}
    for method in ("alignmix_ae", "alignmix_vae")
)
SALIENT = {"mixers": ["puzzlemix", "comixup", "saliencymix", "cutout"]}


@pytest.mark.parametrize(
    ("processes", "options"),
    [
        (2, {}),
        pytest.param(1, VAE, marks=pytest.mark.slow),
        pytest.param(1, {}, marks=pytest.mark.slow),
        pytest.param(4, {}, marks=pytest.mark.slow),
        pytest.param(2, AE, marks=pytest.mark.slow),
        pytest.param(2, VAE, marks=pytest.mark.slow),
        pytest.param(2, SALIENT, marks=pytest.mark.slow),
    ],
)
def test_killed_and_resumed_runs_end_alike(data: Path, tmp_path: Path, processes: int, options: dict[str, Any]) -> None:
    """With four micro-batches a step, for the autoencoders."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(command(data, whole, processes, **options))
    kill_when(command(data, killed, processes, **options), reached(killed, 5))
    finish(command(data, killed, processes, resume="auto", **options))
    assert digest(killed) == digest(whole)
    assert len(records(whole, "train")) == 14
    if "method" in options:
        modes = {name for line in records(whole, "train") for name in line if name.startswith("loss_")}
        assert modes == {"loss_input", "loss_embed", "loss_feat", "loss_feat_swap", "loss_clean"}


def test_killed_while_a_checkpoint_is_written(data: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    partial = killed / "checkpoints" / ".partial"
    for _ in range(8):
        kill_when(command(data, killed, checkpoint_every=1, resume="auto"), (partial / "optimizer.bin").exists)
        if partial.exists():
            break
    else:
        pytest.fail("no checkpoint was being written at any of eight kills")
    finish(command(data, killed, checkpoint_every=1, resume="auto"))
    assert not partial.exists()
    finish(command(data, whole, checkpoint_every=1))
    assert digest(killed) == digest(whole)


@pytest.mark.slow
def test_another_number_of_processes_sees_the_same_run(data: Path, tmp_path: Path) -> None:
    """The rows themselves: tests/test_batches.py. Here: the modes and learning rates of a run that changes."""
    whole, changed = tmp_path / "whole", tmp_path / "changed"
    finish(command(data, whole, epochs=1, drop=0.0))
    kill_when(command(data, changed, 1, epochs=1, drop=0.0, micro_batch_size=16), reached(changed, 4))
    finish(command(data, changed, 2, epochs=1, drop=0.0, resume="auto"))
    lines = [records(output, "train") for output in (whole, changed)]
    for one, two in zip(*lines, strict=True):
        assert one["lr"] == two["lr"]
        assert {name for name in one if "share" in name} == {name for name in two if "share" in name}
    assert records(changed, "eval")[-1]["rows"] == 61


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_twenty_kills_lose_no_file_and_few_steps(data: Path, tmp_path: Path, processes: int) -> None:
    whole, killed, rng = tmp_path / "whole", tmp_path / "killed", random.Random(0)
    options = dict(epochs=400, keep_checkpoints=1, eval_every=25)
    saved = [0]
    for _ in range(20):
        started = time.monotonic()
        end = started + rng.uniform(6, 10) + 5 * (processes - 1)
        kill_when(command(data, killed, processes, resume="auto", **options), lambda end=end: time.monotonic() > end)
        path = killed / "last" / "progress.json"
        if path.exists():
            saved.append(json.loads(path.read_text())["step"])
            assert saved[-1] >= saved[-2]
            assert read_journal(killed / "metrics.jsonl")[-1]["step"] - saved[-1] <= 3
    print(f"saved at each kill, {processes} processes: {saved}")
    assert saved[-1] > 0
    finish(command(data, killed, processes, resume="auto", **options))
    finish(command(data, whole, processes, **options))
    assert digest(killed) == digest(whole)
