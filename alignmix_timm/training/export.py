"""What a run leaves for others: weights for plain timm, on disk and on the Hub, and pictures."""

from collections.abc import Callable
from pathlib import Path

from ..publishing.background import Uploads
from ..publishing.save import save_for_timm
from .build import model_args
from .console import done_line
from .curves import draw_run
from .provenance import exported_step, of_run
from .run import Run


class Export:
    """Saves and publishes the model of a run; files are written by the main process.

    Args:
        run: The run.
        say: Prints a line for the reader.
    """

    def __init__(self, run: Run, say: Callable[[str], None]) -> None:
        self.run, self.say = run, say
        self.uploads: Uploads | None = None
        repo_id = run.config.push_to_hub
        if repo_id is not None and run.accelerator.is_main_process:
            self.uploads = Uploads(run.folder, repo_id, run.config.hub_private, say, run.config.push_branch)

    @property
    def done(self) -> bool:
        """Whether the weights of the best evaluation are in ``model/``."""
        best = self.run.best
        return bool(best) and exported_step(self.run.folder / "model") == best["step"]

    def push_if_due(self, result: dict[str, float]) -> None:
        """After the evaluation of an epoch: upload the weights as they are now, in the background, where asked for."""
        run = self.run
        epoch = run.step // run.plan.steps_per_epoch
        due = run.config.push_every and epoch % run.config.push_every == 0 and run.step < run.total
        if self.uploads is not None and due:
            self.uploads.export(run.step, lambda folder: self._save(folder, run.step, result))

    def finish(self) -> None:
        """Save the weights of the best evaluation, which are loaded, into ``model/``; draw the curves."""
        run = self.run
        if run.step != run.best["step"]:
            run.load(run.checkpoints.best)
        if run.accelerator.is_main_process:
            self._save(run.folder / "model", run.total, run.best, best=True)
            draw_run(run.folder)
        if not run.config.dry_run:  # which deletes its folder
            self.say_done()

    def say_done(self) -> None:
        """The last line of a run."""
        run = self.run
        self.say(done_line(run.best, run.metric, run.total, len(run.splits.names), run.folder))

    def publish(self) -> None:
        """Upload the model at the end of the run."""
        if self.uploads is not None:
            self.uploads.start(self.run.folder / "model")
            self.uploads.wait()

    def _save(self, folder: Path, steps: int, result: dict[str, float], best: bool = False) -> None:
        """Save the weights as they are now, with their evaluation, for plain timm."""
        run = self.run
        provenance = of_run(
            run.folder,
            run.config,
            result,
            updates=steps,
            step=run.step,
            best_by=run.metric if best else None,
            rows=run.plan.rows,
            split=run.splits.split,
            held_out=run.splits.held_out,
            mixing=str(run.hooks.point),
        )
        net = run.net if run.ema is None else run.ema.module
        save_for_timm(net, folder, run.splits.names, run.data, model_args(run.config), provenance=provenance)
