"""Checkpoints that lost something after they were written: named, with the newest that is whole."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from alignmix_timm.training.checkpoint import Checkpoints, write_progress
from alignmix_timm.training.config import TrainConfig
from alignmix_timm.training.damage import check_whole, damage
from alignmix_timm.training.data.batches import BatchPlan
from alignmix_timm.training.run import Run


def checkpoint(run: Path, step: int) -> Path:
    """The files of a checkpoint, with weights of no network."""
    folder = run / "checkpoints" / f"step-{step:08d}"
    folder.mkdir(parents=True)
    write_progress(folder, TrainConfig(data="a"), BatchPlan(10, 2, 1, 0), step, {"step": step, "top1": 50.0})
    weights = {"weight": torch.zeros(100)}
    save_file(weights, folder / "model.safetensors")
    for name in ("optimizer.bin", "ema.pt"):
        torch.save(weights, folder / name)
    return folder


@pytest.mark.parametrize("whole", [0, 1])
@pytest.mark.parametrize(
    ("name", "size", "reason"),
    [
        ("model.safetensors", 200, "model.safetensors cannot be read"),
        ("model.safetensors", 0, "model.safetensors cannot be read"),
        ("optimizer.bin", 500, "optimizer.bin cannot be read"),
        ("ema.pt", 0, "ema.pt cannot be read"),
        ("progress.json", 20, "progress.json cannot be read"),
        ("config.yaml", 0, "config.yaml cannot be read"),
        ("progress.json", None, "it has no progress.json"),
        ("optimizer.bin", None, "it has no optimizer.bin"),
    ],
)
def test_a_damaged_checkpoint_is_named_with_the_newest_that_is_whole(
    name: str, size: int | None, reason: str, whole: int, tmp_path: Path
) -> None:
    older = [checkpoint(tmp_path, step) for step in (3, 6)[:whole]]
    newest, cut = checkpoint(tmp_path, 9), checkpoint(tmp_path, 8)
    for folder in older:
        check_whole(folder)
    for folder in (newest, cut):
        if size is None:
            (folder / name).unlink()
        else:
            os.truncate(folder / name, size)
    instead = rf"Move it elsewhere; {older[-1]} is the newest that is whole" if whole else "There is no other that"
    with pytest.raises(ValueError, match=rf"the checkpoint {newest} is damaged: {reason}.*\. {instead}"):
        check_whole(newest)
    (tmp_path / "last").symlink_to(newest)
    assert damage(tmp_path / "last")


def test_a_run_does_not_go_on_from_a_damaged_checkpoint_and_goes_on_from_the_older_one(tmp_path: Path) -> None:
    older, newest = checkpoint(tmp_path, 3), checkpoint(tmp_path, 6)
    os.truncate(newest / "optimizer.bin", 500)
    config = TrainConfig(data="a", resume="auto", output=str(tmp_path))
    with pytest.raises(ValueError, match=rf"step-00000006 is damaged: optimizer.bin .*; {older} is the newest"):
        Run(config)
    shutil.move(newest, tmp_path / "damaged")
    chosen = Checkpoints(tmp_path).choose("auto")
    assert chosen == older
    check_whole(chosen)
