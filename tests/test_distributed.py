"""Two gloo processes against the same mixed batches computed one after the other in this process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from distributed_step import build, examples

from alignmix_timm import MixParams
from alignmix_timm.collate import AlignMixCollator

MODES = ("input", "embed", "feat", "feat_swap")
LAUNCH = ["--multi_gpu", "--num_processes=2", "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no"]


@pytest.mark.parametrize(("kind", "architecture"), [("ddp", "test_resnet"), ("fsdp", "test_vit")])
def test_gradients_equal_those_of_one_process(tmp_path: Path, kind: str, architecture: str) -> None:
    script = str(Path(__file__).parent / "distributed_step.py")
    command = [sys.executable, "-m", "accelerate.commands.launch", *LAUNCH, "--main_process_port=0", script]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(
        [*command, str(tmp_path), kind, *MODES], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for step, mode in enumerate(MODES):
        records = [torch.load(tmp_path / f"{mode}_{rank}.pt", weights_only=False) for rank in range(2)]
        mixes: list[MixParams] = [record["mix"] for record in records]
        assert mixes[0].mode == mixes[1].mode == mode
        assert not torch.equal(mixes[0].lam, mixes[1].lam)
        assert not torch.equal(mixes[0].perm, mixes[1].perm)
        model = build(architecture).train()
        for rank, record in enumerate(records):
            batch = AlignMixCollator()(examples(rank, step))
            loss = model(batch["pixel_values"], batch["labels"], mixes[rank]).loss
            assert torch.allclose(loss, record["loss"], atol=1e-5)
            (loss / 2).backward()
        for name, parameter in model.model.named_parameters():
            expected, found = parameter.grad, records[0]["gradients"][name]
            assert torch.allclose(found, expected, atol=1e-5 * float(expected.abs().max()) + 1e-7), (mode, name)
