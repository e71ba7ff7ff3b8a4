"""Command lines and surroundings of runs in processes of their own."""

import os
import socket
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "HF_HUB_OFFLINE": "1"}


def launcher(processes: int) -> list[str]:
    """``accelerate launch`` for this many processes on the CPU."""
    start = [sys.executable, "-m", "accelerate.commands.launch", "--num_machines=1", "--mixed_precision=no"]
    if processes == 1:
        return [*start, "--num_processes=1", "--dynamo_backend=no"]
    port = f"--main_process_port={free_port()}"
    return [*start, f"--num_processes={processes}", "--dynamo_backend=no", "--multi_gpu", port]


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
