"""Two gloo processes against the same mixed batches computed one after the other in this process."""

import subprocess
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from distributed_step import build, examples, forward
from launcher import ENVIRONMENT, launcher
from torch.distributed.checkpoint.state_dict import get_state_dict

from alignmix_timm import MODES, MixParams
from alignmix_timm.collate import AlignMixCollator

CLEAN = ("clean", *MODES, "clean", "input")
MIXERS = (*MODES, "manifold", "mixup", "cutmix", "saliencymix", "stylemix", "stylecutmix")
WITHOUT_PARTNERS = ("cutout", "comixup")


@pytest.mark.parametrize(
    ("kind", "modes"),
    [
        ("ddp", MIXERS),
        pytest.param("fsdp", MIXERS, marks=pytest.mark.slow),
        pytest.param("alignmix_ae", CLEAN, marks=pytest.mark.slow),
        ("alignmix_vae", CLEAN),
        # In a network without batch norm, whose running statistics the saliency would follow.
        pytest.param("vit", ("puzzlemix", "puzzlemix", *WITHOUT_PARTNERS), marks=pytest.mark.slow),
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
        drawn = [mix.extra.values() if mode in WITHOUT_PARTNERS else (mix.lam, mix.perm) for mix in mixes]
        assert mode == "clean" or not any(torch.equal(one, other) for one, other in zip(*drawn, strict=True))
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
    if kind == "fsdp":
        check_checkpoint(tmp_path, len(modes))


def check_checkpoint(folder: Path, steps: int) -> None:
    """The sharded weights and momentum, read by one process, have the names of the timm model, and their values."""
    model = build("fsdp")
    expected = {name: value.clone() for name, value in model.state_dict().items()}  # the steps were taken back
    momentum = {name: torch.zeros_like(value) for name, value in model.named_parameters()}
    for step in range(steps):
        gradients = torch.load(folder / f"{step}_0.pt", weights_only=False)["gradients"]
        for name, value in model.named_parameters():
            decayed = gradients[name] + 0.1 * value.detach()
            momentum[name] = decayed if step == 0 else 0.9 * momentum[name] + decayed
    for value in model.parameters():
        value.grad = torch.zeros_like(value)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=0.1)
    optimizer.step()
    weights, state = get_state_dict(model, optimizer)
    dcp.load({"model": weights, "optimizer": state}, checkpoint_id=folder / "checkpoint")
    model.model.load_state_dict(weights)
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    for name, value in momentum.items():
        torch.testing.assert_close(state["state"][name]["momentum_buffer"], value)
