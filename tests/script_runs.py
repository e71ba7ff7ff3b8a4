"""Training scripts, run in this process with a probe in the model."""

import contextlib
import logging
import re
import runpy
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from batch_probe import Probe

from alignmix_timm.timm_train import main

SCRIPT = Path(__file__).parent / "timm_script.py"


class Done(NamedTuple):
    """A run that ended: exit status, what it printed, the training batches that the probe saw."""

    status: object
    out: str
    err: str
    probe: Probe

    @property
    def losses(self) -> list[str]:
        return re.findall(r"loss (\S+)", self.out)

    @property
    def modes(self) -> dict[str, int]:
        """Counts of the line at the end."""
        counts = re.search(r"batches, \d+ mixed \((.*)\)", self.err)
        return {name: int(count) for name, count in re.findall(r"([\w.]+) (\d+)", counts[1])}


class Launch:
    """Runs a script in this process, in a folder with images."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys

    def __call__(self, *args: object, script: Path = SCRIPT, launcher: bool = True, watch: bool = True) -> Done:
        """Run ``script *args``, with the launcher or without; compiled models are not to be watched."""
        status: object = 0
        probe = Probe()
        with probe if watch else contextlib.nullcontext(), pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.folder)
            patch.setattr(sys, "argv", [str(script), *map(str, args)])
            patch.setattr(logging.root, "handlers", [])
            try:
                main(sys.argv) if launcher else runpy.run_path(str(script), run_name="__main__")
            except SystemExit as exit:
                status = exit.code
            except RuntimeError as error:
                status = error
        return Done(status, *self.capsys.readouterr(), probe)

    def with_change(self, old: str, new: str, *args: object) -> Done:
        """Run the script with a mistake in it."""
        text = SCRIPT.read_text()
        assert old in text
        changed = self.folder / "changed.py"
        changed.write_text(text.replace(old, new))
        return self("data", "--mixup", "alignmix", *args, script=changed)
