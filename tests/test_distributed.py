"""Two gloo processes against the same mixed batches computed one after the other in this process."""

import subprocess
from pathlib import Path

import pytest
import torch
from distributed_step import build, examples
from launcher import ENVIRONMENT, launcher

from alignmix_timm import MixParams
from alignmix_timm.collate import AlignMixCollator

MODES = ("input", "embed", "feat", "feat_swap")


@pytest.mark.parametrize(("kind", "architecture"), [("ddp", "test_resnet"), ("fsdp", "test_vit")])
def test_gradients_equal_those_of_one_process(tmp_path: Path, kind: str, architecture: str) -> None:
    line = [*launcher(2), str(Path(__file__).parent / "distributed_step.py"), str(tmp_path), kind, *MODES]
    done = subprocess.run(line, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
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
