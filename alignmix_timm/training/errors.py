"""How a program ends that cannot go on: with one sentence, the last of its words on the screen, and no traceback.

Under ``accelerate launch --quiet`` in one process the launcher adds nothing. In several processes it prints a report,
in which the sentence stands; those that lost the one that failed say nothing beside it.
"""

import contextlib
import json
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import torch

from ..params import process_index

_PATIENCE = 3.0  # seconds
_TO_BE_ENDED = 10.0  # seconds: a launcher ends the processes of a run within two of the end of one
_PEER_ENDED = re.compile("(closed|reset) by peer|broken pipe|remote process exited", re.IGNORECASE)  # gloo, NCCL


@contextlib.contextmanager
def told_in_a_sentence() -> Iterator[None]:
    """Turn wrong options, data, numbers and files, the death of a process, and Ctrl-C, into a sentence and a status.

    Raises:
        SystemExit: 1 after an error, 130 after Ctrl-C.
    """
    try:
        yield
    except (ValueError, FloatingPointError, OSError) as error:
        end(f"error{_process()}: {_reason(error)}", 1)
    except RuntimeError as error:
        if str(error).startswith("DataLoader worker (pid"):
            end(f"error{_process()}: {_of_dead_worker(error)}", 1)
        if _PEER_ENDED.search(str(error)):
            time.sleep(_TO_BE_ENDED)  # by the launcher, whose report names the process that ended first
            end(f"error{_process()}: another process of the run ended: {_one_line(error)}.", 1)
        raise
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # nothing is left that a second one could stop
        outlive_launcher()
        end(f"Stopped by Ctrl-C{_process()}.", 128 + signal.SIGINT)
    finally:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def outlive_launcher() -> None:
    """After Ctrl-C, let ``accelerate launch`` print its traceback first: it gets the signal, too, and ends at once.

    It does so with one process; with several it waits for them.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ or "ACCELERATE_MIXED_PRECISION" not in os.environ:
        return
    launcher, deadline = os.getppid(), time.monotonic() + _PATIENCE
    while os.getppid() == launcher and time.monotonic() < deadline:
        time.sleep(0.02)


def end(sentence: str, status: int) -> NoReturn:
    """Print a sentence, leave it for the report of a launcher of several processes, and exit."""
    print(sentence, file=sys.stderr, flush=True)
    if report := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        with contextlib.suppress(OSError):
            Path(report).write_text(json.dumps({"message": sentence, "timestamp": int(time.time())}))
    raise SystemExit(status)


def _process() -> str:
    return f" in process {process_index()}" if process_index() else ""


def _reason(error: Exception) -> str:
    """The message; of a data worker's error, whose message is a traceback, the last line."""
    first, *more = str(error).strip().splitlines() or [type(error).__name__]
    return more[-1] if more and "worker process" in first else "\n".join([first, *more])


def _of_dead_worker(error: RuntimeError) -> str:
    cause = error.__cause__ if isinstance(error.__cause__, RuntimeError) else error  # the cause names the signal
    return (
        f"a data worker died: {_one_line(cause)}. The machine may be short of memory: try fewer --workers. A training "
        "run goes on from its last checkpoint with --resume auto."
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")
