"""Uploads in the background of a training, by the command of ``push`` in a process of its own."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from . import push

LOG = "push.log"


class Uploads:
    """Uploads of a run while it trains, one at a time, each in a process of its own; none can fail the run.

    Args:
        folder: Of the run; output goes to ``push.log`` in it.
        repo_id, private, branch: See :func:`alignmix_timm.push_to_hub`.
        say: Prints a line for the reader.
    """

    def __init__(
        self, folder: Path, repo_id: str, private: bool, say: Callable[[str], None], branch: str | None = None
    ) -> None:
        self.folder, self.repo_id, self.say = folder, repo_id, say
        self._where = [repo_id, *(["--private"] if private else []), *(["--branch", branch] if branch else [])]
        self._running: subprocess.Popen[bytes] | None = None
        self._what = ""

    @property
    def busy(self) -> bool:
        """Whether one is under way."""
        return self._running is not None and self._running.poll() is None

    def export(self, step: int, save: Callable[[Path], None]) -> None:
        """Let ``save(folder)`` write the model of this step, and upload that, unless the last upload is under way."""
        if self.busy:
            self.say(f"The last push is still under way: none at step {step}.")
            return
        self.wait()
        model = self.folder / push.EXPORTS / f"step-{step:08d}"
        try:
            for old in self.folder.glob(f"{push.EXPORTS}/step-*"):
                shutil.rmtree(old)
            save(model)
        except Exception as error:  # whatever it is, the run goes on
            self.say(f"No push at step {step}: {error}")
            return
        self.start(model)

    def start(self, model: Path) -> None:
        """Upload this folder in the background, once the former upload has ended."""
        self.wait()
        line = [sys.executable, "-m", push.__name__, str(model), *self._where]
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}  # no memory of the training's devices
        root = str(Path(__file__).parents[2])
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, environment.get("PYTHONPATH")]))
        self._what = model.name
        try:
            with (self.folder / LOG).open("ab") as log:
                self._running = subprocess.Popen(
                    line, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
                )
        except OSError as error:
            self.say(f"{self._what} was not pushed to {self.repo_id}; the run goes on: {error}")

    def wait(self) -> None:
        """Until the upload under way has ended; say how it did."""
        if self._running is not None:
            code, self._running = self._running.wait(), None
            self._report(code)

    def _report(self, code: int) -> None:
        if code == 0:
            self.say(f"Pushed {self._what} to {self.repo_id}.")
            return
        try:
            lines = (self.folder / LOG).read_text(errors="replace").strip().splitlines()
        except OSError as error:
            lines = [f"{error}."]
        self.say(
            f"{self._what} was not pushed to {self.repo_id}; the run goes on. {lines[-1] if lines else ''} See "
            f"{self.folder / LOG}; repeat with: {shlex.join(['alignmix-timm', 'push', str(self.folder), *self._where])}"
        )
