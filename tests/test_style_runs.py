"""Runs with StyleMix and StyleCutMix, by files of weights in the layout of AdaIN's."""

from pathlib import Path

import pytest
import torch
from script_runs import Launch
from style import weight_files
from training import command, digest, finish, kill_when, reached, records, save_rows

NAMES = ("stylemix", "stylecutmix")
SMALL = {"size": "16", "prob": "1"}


@pytest.mark.slow
def test_killed_and_resumed_runs_end_alike(tmp_path: Path) -> None:
    """On two processes, each with two micro-batches a step, in bf16."""
    data, given = save_rows(tmp_path / "rows", train=233, test=61), weight_files(tmp_path) | SMALL
    arguments = [f"{name}.{key}={value}" for name in NAMES for key, value in given.items()]
    options = dict(mixers=list(NAMES), mixer_args=arguments, micro_batch_size=8, mixed_precision="bf16")
    finish(command(data, tmp_path / "whole", 2, **options))
    kill_when(command(data, tmp_path / "killed", 2, **options), reached(tmp_path / "killed", 5))
    finish(command(data, tmp_path / "killed", 2, resume="auto", **options))
    assert digest(tmp_path / "killed") == digest(tmp_path / "whole")
    seen = {name for line in records(tmp_path / "whole", "train") for name in line if name.startswith("share_")}
    assert seen == {f"share_{name}" for name in NAMES}


@pytest.mark.slow
@pytest.mark.parametrize("options", ["--grad-accum-steps 2", "--amp --channels-last --no-prefetcher"])
@pytest.mark.parametrize("name", NAMES)
def test_the_launcher_trains_with_them(launch: Launch, tmp_path: Path, name: str, options: str) -> None:
    given = weight_files(tmp_path) | SMALL
    arguments = [f"{key}={value}" for key, value in given.items()]
    done = launch("data", "--mixup", name, *options.split(), "--mixer-args", *arguments)
    assert done.status == 0, done.err
    assert done.modes == {name: 8}
    assert "8 batches, 8 mixed (" in done.err
    targets = torch.cat([batch.targets for batch in done.probe.batches])
    assert torch.allclose(targets.sum(1), torch.ones(64), atol=1e-5)
    assert targets.amax(1).min() < 0.8  # mixed
    again = launch("-c", launch.folder / "output" / "args.yaml", "--output", "again", "--epochs", 1)
    assert again.losses == done.losses[:4]
    refused = launch("data", "--mixup", name, "--mixer-args", *arguments[1:])
    assert refused.status == 2
    assert f"{name}: codec must be given, or both encoder and decoder, got decoder" in refused.err
