"""Two gloo processes against the same mixed batches computed one after the other in this process."""

import subprocess
from pathlib import Path

import pytest
import torch
from distributed_step import build, examples, forward
from launcher import ENVIRONMENT, launcher

from alignmix_timm import MODES, MixParams
from alignmix_timm.collate import AlignMixCollator

CLEAN = ("clean", *MODES, "clean", "input")
MIXERS = (*MODES, "manifold", "mixup", "cutmix")


@pytest.mark.parametrize(
    ("kind", "modes"),
    [
        ("ddp", MIXERS),
        ("fsdp", MIXERS),
        ("alignmix_ae", CLEAN),
        ("alignmix_vae", CLEAN),
        # In a network without batch norm, whose running statistics the saliency would follow.
        pytest.param("vit", ("puzzlemix", "puzzlemix"), marks=pytest.mark.slow),
    ],
)
def test_gradients_equal_those_of_one_process(tmp_path: Path, kind: str, modes: tuple[str, ...]) -> None:
    line = [*launcher(2), str(Path(__file__).parent / "distributed_step.py"), str(tmp_path), kind, *modes]
    done = subprocess.run(line, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    for step, mode in enumerate(modes):
        records = [torch.load(tmp_path / f"{step}_{rank}.pt", weights_only=False) for rank in range(2)]
        mixes: list[MixParams] = [record["mix"] for record in records]
        assert all((mix.mode if mix.mixer == "alignmix" else mix.mixer) == mode for mix in mixes)
        assert mode == "clean" or not torch.equal(mixes[0].lam, mixes[1].lam)
        assert mode == "clean" or not torch.equal(mixes[0].perm, mixes[1].perm)
        model = build(kind).train()
        for rank, record in enumerate(records):
            batch = AlignMixCollator()(examples(rank, step)) | {"mix": mixes[rank]}
            loss = forward(model, batch, rank, step)
            assert torch.allclose(loss, record["loss"], atol=1e-5)
            (loss / 2).backward()
        for name, parameter in model.named_parameters():
            expected, found = parameter.grad, records[0]["gradients"][name]
            if expected is None:
                assert found is None, (mode, name)
                continue
            assert torch.allclose(found, expected, atol=1e-5 * float(expected.abs().max()) + 1e-7), (mode, name)
        left_out = {name for name, parameter in model.named_parameters() if parameter.grad is None}
        assert bool(left_out) == kind.startswith("alignmix")
        assert all(("head." if mode == "clean" else "decoder.") in name for name in left_out)
        if left_out:
            assert [record["kept"] for record in records] == [left_out, left_out]
