"""Stop at a signal, all processes after the same optimizer step."""

import os
import signal
import time
from types import FrameType

import torch
import torch.distributed as dist

_ONE_KEYSTROKE = 1.0  # seconds in which the terminal and the launcher pass on the same Ctrl-C


class StopSignal:
    """Notes SIGTERM, SIGINT, SIGHUP, SIGUSR1, and the end of the launcher.

    A second SIGINT, after a second, stops at once. SIGHUP stays ignored where it is, as under nohup.

    Processes agree without waiting for a device: each step starts a reduction over gloo, read at the next step.
    """

    def __init__(self) -> None:
        self.received, self._first = 0, 0.0
        stopping = [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1]  # the last from Slurm, by --signal=USR1@60
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            stopping.append(signal.SIGHUP)
        self._before = {number: signal.signal(number, self._note) for number in stopping}
        launched = {"ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID"} & set(os.environ)
        self._launcher = os.getppid() if launched else None  # which, for one process, does not pass signals on
        distributed = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        self._group = dist.new_group(backend="gloo") if distributed else None
        self._flag = torch.zeros(1, dtype=torch.int64)
        self._work: dist.Work | None = None

    def agreed(self) -> int:
        """The signal at which to stop now, or 0. Call it once for each optimizer step, in every process."""
        if self._launcher is not None and os.getppid() != self._launcher:
            self.received = self.received or signal.SIGTERM
        if self._group is None:
            return self.received
        stop = 0
        if self._work is not None:
            self._work.wait()
            stop = int(self._flag)
        self._flag = torch.tensor([self.received])
        self._work = dist.all_reduce(self._flag, dist.ReduceOp.MAX, self._group, async_op=True)  # type: ignore[arg-type]
        return stop

    def close(self) -> None:
        """Handle signals as before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if number != signal.SIGINT or self.received != number:
            self.received, self._first = number, now
        elif now - self._first > _ONE_KEYSTROKE:
            raise KeyboardInterrupt
