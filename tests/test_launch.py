"""What a launcher asks for is done, or refused with what to type instead."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from accelerate.state import AcceleratorState
from launcher import ENVIRONMENT, ROOT

from alignmix_timm.training.config import TrainConfig
from alignmix_timm.training.launch import asked_for_several, check_environment
from alignmix_timm.training.main import run


@pytest.fixture(autouse=True)
def other_precision() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)


def config(tmp_path: Path, **options: Any) -> TrainConfig:
    return TrainConfig(model="test_resnet", data=str(tmp_path / "none"), output=str(tmp_path / "run"), **options)


@pytest.mark.parametrize(
    ("name", "value", "instead"),
    [
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4", "Pass --micro-batch-size"),
        ("ACCELERATE_GRADIENT_CLIPPING", "1.0", "Pass --clip-grad"),
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", "Pass --compile"),
        ("ACCELERATE_USE_DEEPSPEED", "true", "with --multi_gpu, or by torchrun"),
        ("ACCELERATE_USE_FSDP", "true", "with --multi_gpu, or by torchrun"),
        ("ACCELERATE_USE_MEGATRON_LM", "true", "with --multi_gpu, or by torchrun"),
        ("ACCELERATE_USE_PARALLELISM_CONFIG", "true", "with --multi_gpu, or by torchrun"),
        ("ACCELERATE_MIXED_PRECISION", "fp8", "must be no, fp16 or bf16"),
    ],
)
def test_what_the_engine_does_not_do_is_refused(
    name: str, value: str, instead: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"{name} must .*got '{value}'.*{instead}|{name} {instead}.*got '{value}'"):
        run(config(tmp_path))
    assert not (tmp_path / "run").exists()


def test_what_the_launcher_sets_by_default_is_let_through() -> None:
    check_environment(
        {
            **{"ACCELERATE_USE_CPU": "True", "ACCELERATE_MIXED_PRECISION": "bf16", "ACCELERATE_DYNAMO_BACKEND": "NO"},
            **{"ACCELERATE_DYNAMO_MODE": "default", "ACCELERATE_DYNAMO_USE_FULLGRAPH": "False"},
            **{"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1", "ACCELERATE_USE_FSDP": "false"},
        }
    )


@pytest.mark.parametrize("by_launcher", [True, False])
def test_fp16_on_a_cpu_is_refused(by_launcher: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    if by_launcher:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    with pytest.raises(ValueError, match="must be no or bf16 on a device of the type cpu, got 'fp16'"):
        run(config(tmp_path, mixed_precision=None if by_launcher else "fp16"))


@pytest.mark.parametrize(
    "environment",
    [
        {"WORLD_SIZE": "2", "RANK": "1"},  # a cluster's own launcher; torchrun is tried below
        {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"},  # mpirun
        {"PMI_SIZE": "2", "PMI_RANK": "1"},
    ],
)
def test_processes_that_do_not_find_each_other_stop_at_once(
    environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(sys, "orig_argv", ["python", "-u", "-m", "alignmix_timm", "train", "--data", "my images"])
    line = "ACCELERATE_USE_CPU=true torchrun --nproc-per-node 2 -m alignmix_timm train --data 'my images'"
    with pytest.raises(ValueError, match=f"2 processes were launched, and found 1: .* Type: {line}$"):
        run(config(tmp_path))
    assert not (tmp_path / "run").exists()


def test_one_process_where_several_were_asked_for_is_noticed() -> None:
    one = {"ACCELERATE_MIXED_PRECISION": "no", "ACCELERATE_USE_CPU": "True"}
    assert not asked_for_several(one)
    assert asked_for_several({**one, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"})
    assert not asked_for_several({**one, "MASTER_PORT": "29500", "LOCAL_RANK": "0"})
    assert not asked_for_several({"MASTER_PORT": "29500"})  # a job script's own, without accelerate launch


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "code", "said"),
    [
        (
            ["torch.distributed.run", "--nproc-per-node=2"],
            1,
            "Type: ACCELERATE_USE_CPU=true torchrun --nproc-per-node 2",
        ),
        (
            ["accelerate.commands.launch", "--cpu", "--num_processes=2"],
            0,
            "One process trains, though accelerate launch",
        ),
    ],
)
def test_launchers_on_cpus(launcher: list[str], code: int, said: str, tmp_path: Path) -> None:
    line = [sys.executable, "-m", *launcher, str(ROOT / "recipes" / "train.py"), "--dry-run", "--model", "test_resnet"]
    environment = {name: value for name, value in ENVIRONMENT.items() if name != "ACCELERATE_USE_CPU"}
    done = subprocess.run([*line, "--output", tmp_path / "run"], env=environment, capture_output=True, text=True)
    assert done.returncode == code, done.stderr[-2000:]
    assert said in done.stdout + done.stderr
    assert not list(tmp_path.iterdir())
