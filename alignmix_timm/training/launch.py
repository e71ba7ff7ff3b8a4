"""What a launcher asks of a run, looked at before anything is written: done as it says, or refused."""

import os
import shlex
import sys
from collections.abc import Mapping

from accelerate import Accelerator

_INSTEAD = {  # settings of Accelerate's launcher that the engine has options for
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "Pass --micro-batch-size: --batch-size counts the accumulated images",
    "ACCELERATE_GRADIENT_CLIPPING": "Pass --clip-grad",
    "ACCELERATE_DYNAMO_BACKEND": "Pass --compile",
}
_ALLOWED = {"ACCELERATE_USE_CPU", "ACCELERATE_USE_XPU"}  # say on which devices, not how
_OFF = {"", "0", "f", "false", "n", "no", "none", "off", "auto"}
_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")  # of torchrun, and of MPI


def check_environment(environment: Mapping[str, str] = os.environ) -> None:
    """Raise ValueError for a way of training that Accelerate's launcher asks for, and that is not done."""
    for name, value in sorted(environment.items()):
        if value.lower() in _OFF or (name == "ACCELERATE_GRADIENT_ACCUMULATION_STEPS" and value == "1"):
            continue
        if name in _INSTEAD:
            raise ValueError(f"{name} must not be set, got {value!r}: it would not do what it says. {_INSTEAD[name]}.")
        if name.startswith("ACCELERATE_USE_") and name not in _ALLOWED:
            raise ValueError(
                f"{name} must not be set, got {value!r}: the processes of a run are those of DDP. Launch it with "
                "--multi_gpu, or by torchrun."
            )
    if environment.get("ACCELERATE_MIXED_PRECISION", "").lower() == "fp8":
        raise ValueError("ACCELERATE_MIXED_PRECISION must be no, fp16 or bf16, got 'fp8'.")


def start_processes(mixed_precision: str | None = None) -> Accelerator:
    """Let the processes of a run find each other, and check that they are as many, and as precise, as was asked for.

    Args:
        mixed_precision: ``no``, ``fp16`` or ``bf16``; None is as the launcher says.

    Raises:
        ValueError: they are not; the message says what to type.
    """
    check_environment()
    accelerator = Accelerator(mixed_precision=mixed_precision)
    launched = launched_processes(os.environ)
    if launched != accelerator.num_processes:
        raise ValueError(
            f"{launched} processes were launched, and found {accelerator.num_processes}: each would train alone, in "
            f"the same folder. Type: {_command(accelerator, os.environ.get('LOCAL_WORLD_SIZE', str(launched)))}"
        )
    if accelerator.mixed_precision != "no" and not accelerator.native_amp:
        raise ValueError(
            f"mixed_precision must be no or bf16 on a device of the type {accelerator.device.type}, got "
            f"{accelerator.mixed_precision!r}, which would compute in fp32. Pass --mixed-precision bf16, or no."
        )
    if launched == 1 and asked_for_several(os.environ):
        accelerator.print(
            "One process trains, though accelerate launch was asked for several: it starts them with --multi_gpu only. "
            f"For two, type: {_command(accelerator, '2')}"
        )
    return accelerator


def launched_processes(environment: Mapping[str, str]) -> int:
    """How many processes a launcher started together, as it tells each of them."""
    return next((int(size) for name in _SIZES if (size := environment.get(name, "")).isdigit()), 1)


def asked_for_several(environment: Mapping[str, str]) -> bool:
    """Whether ``accelerate launch`` was to start several processes, and started one: it tells that their address."""
    by_accelerate = "ACCELERATE_MIXED_PRECISION" in environment and "LOCAL_RANK" not in environment
    return by_accelerate and "MASTER_PORT" in environment


def _command(accelerator: Accelerator, processes: str) -> str:
    """This command line, under a launcher of several processes."""
    line = [word for word in sys.orig_argv[1:] if word != "-u"]
    on = "" if accelerator.device.type == "cuda" else "ACCELERATE_USE_CPU=true "
    return f"{on}torchrun --nproc-per-node {processes} {shlex.join(line)}"
