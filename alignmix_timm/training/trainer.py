"""The training engine: one loop over optimizer steps, the same on any number of processes, and exact when resumed.

Everything random is drawn from (seed, purpose, place): the order of the rows from the epoch, augmentation from (epoch,
row), mixing and dropout from (step, micro-batch). So a checkpoint holds weights, optimizer, EMA weights and the number
of optimizer steps, and no random state.
"""

import contextlib
import math
import signal
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch
from timm.models import model_parameters
from timm.utils import dispatch_clip_grad
from torch import Tensor

from ..params import Place
from ..points.effect import alignment_effect
from ..seeds import Stream, seed_all
from .checkpoint import write_options
from .console import start_lines, wrapped
from .errors import outlive_launcher
from .evaluator import Evaluator
from .export import Export
from .journal import Journal
from .meters import Metrics
from .mixing import mixed_accuracy
from .run import Run
from .signals import StopSignal


class Trainer:
    """Trains a run to its end.

    Attributes:
        run: What is trained.
        evaluator: Measures it.
    """

    def __init__(self, run: Run) -> None:
        self.run, self.evaluator = run, Evaluator(run)
        self.metrics = Metrics(run.plan.micro_batch, run.corrupt)

    def fit(self) -> dict[str, float]:
        """Train to the end, or to a signal; return the last evaluation.

        Raises:
            FloatingPointError: the loss is not finite; raised before the next checkpoint is written.
            SystemExit: 128 + the number of the signal at which the run was stopped, after saving.
        """
        run = self.run
        finished = run.step >= run.total
        if finished and (export := Export(run, run.accelerator.print)).done:
            run.accelerator.print(f"The run in {run.folder} is finished: nothing to do.")
            export.say_done()
            result = self.evaluator.all()
            export.publish()
            return result
        self.journal = Journal(run.folder, run.accelerator, run.total, run.step)
        self.export = Export(run, self.journal.say)
        stop = StopSignal()
        try:
            result = self.evaluator.all() if finished else self._train(stop)
            self._finish(result)
        finally:
            stop.close()
            self.journal.close()
        return result

    def start(self) -> None:
        """Get ready for :meth:`train_step`.

        Lets DDP settle the order in which it sums gradients, which it otherwise changes after the first step: a run
        resumed on three processes or more would add in another order than the run that was killed.
        """
        run = self.run
        if run.accelerator.num_processes > 1:
            run.model.eval()
            images = torch.zeros(run.plan.micro_batch, *run.data["input_size"], device=run.accelerator.device)
            for _ in range(2):
                run.model(images, torch.zeros(len(images), dtype=torch.int64, device=images.device)).loss.backward()
            run.optimizer.zero_grad()
        run.model.train()

    def train_step(self, batches: Iterator[dict[str, Any]]) -> None:
        """One optimizer step, from as many micro-batches as fall to this process."""
        run, accelerator = self.run, self.run.accelerator
        if run.lr_schedule is not None:
            run.lr_schedule.step_update(run.step)
        count = run.plan.micros // accelerator.num_processes
        for turn in range(count):
            with self.metrics.waiting():
                batch = next(batches)
            run.corrupt.update(batch["corrupt"])
            last = turn == count - 1
            with contextlib.nullcontext() if last else accelerator.no_sync(run.model):
                loss = self._forward(batch, turn * accelerator.num_processes + accelerator.process_index)
                accelerator.backward(loss / count)
        if run.config.clip_grad is not None:
            accelerator.unscale_gradients()
            parameters = model_parameters(run.net, exclude_head=run.config.clip_mode == "agc")
            dispatch_clip_grad([*parameters, *run.beside.values()], run.config.clip_grad, run.config.clip_mode)
        run.optimizer.step()
        run.optimizer.zero_grad()
        if run.ema is not None:
            run.ema.update(run.net, run.step + 1)

    def _forward(self, batch: dict[str, Any], micro: int) -> Tensor:
        """The loss of one micro-batch, mixed as drawn for its place in the run."""
        run = self.run
        params = run.mixer.draw(len(batch["labels"]), Place(run.config.seed, run.step, micro))
        seed_all(run.config.seed, Stream.NETWORK, run.step, micro)
        passes = run.hooks.saliency_passes
        output = run.model(batch["pixel_values"], batch["labels"], params)
        classified = output.logits is not None
        accuracy = mixed_accuracy(output.logits, output.targets, run.config.smoothing) if classified else None
        extra = run.hooks.saliency_passes - passes
        self.metrics.add(params.label, output.loss, accuracy, run.hooks.transport, extra)
        return output.loss

    def _train(self, stop: StopSignal) -> dict[str, float]:
        run, config = self.run, self.run.config
        self.start()
        self._describe()
        self.metrics.restart_clock()
        batches, result = run.loaders.train(run.step, run.total), dict[str, float]()
        while run.step < run.total:
            if number := stop.agreed():
                self._stop(number)
            self.train_step(batches)
            run.step += 1
            self.journal.advance()
            epoch, place = divmod(run.step, run.plan.steps_per_epoch)
            ended = place == 0
            evaluated = run.step == run.total or (ended and epoch % config.eval_every == 0)
            saved = config.checkpoint_every and run.step % config.checkpoint_every == 0
            if ended or saved or run.step % config.log_every == 0:
                self._log()
            if evaluated:
                result = self._evaluate_and_save()
            elif saved:
                self._save()
            if ended:
                self.journal.end_epoch(epoch, config, result if evaluated else {}, run.best)
        run.hooks.check()
        return result

    def _stop(self, number: int) -> None:
        """Save, and exit as a process that a signal ended."""
        self._log()
        self._save()
        if number == signal.SIGINT:
            outlive_launcher()
        self.journal.say(f"Stopped by signal {number} after step {self.run.step}, saved: go on with --resume auto.")
        raise SystemExit(128 + number)

    def _describe(self) -> None:
        """Say what is about to happen; start the trackers; measure the effect of alignment."""
        run, config = self.run, self.run.config
        plain = (int, float, str, bool)
        options = {name: value if isinstance(value, plain) else str(value) for name, value in asdict(config).items()}
        run.accelerator.init_trackers(config.project, config=options)
        for line in start_lines(config, run.splits, run.plan, run.step, run.accelerator):
            self.journal.say(line)
        if run.mixer.mixes_inside:
            mixes = "AlignMix mixes" if None in run.mixer.feature_layers else "This run mixes"
            self.journal.say(wrapped(f"{mixes} {run.hooks.describe(run.mixer.feature_layers)}."))
        if run.accelerator.is_main_process:
            write_options(run.folder, config)
        if run.step == 0:
            self._write_effect()

    def _write_effect(self) -> None:
        run = self.run
        point = run.hooks.point
        if point is not None and run.mixer.aligns and run.hooks.alignment.assignment == "transport":
            # In every process: synchronised batch norm waits for all.
            effect = alignment_effect(run.hooks.model, point, run.hooks.alignment)
            self.journal.write("effect", run.step, {"alignment_effect": effect})
            self.journal.say(f"Alignment changes the logits of mixed features by {100 * effect:.2g} % of their size.")

    def _log(self) -> None:
        """Write the means since the last line; stop a run that is broken, before it can be saved."""
        run = self.run
        record = self.metrics.take(run.accelerator)
        if not record:
            return
        broken = [name for name, value in record.items() if name.startswith("loss") and not math.isfinite(value)]
        weights = {"a weight": [*run.net.state_dict().values(), *run.beside.values()]}
        if run.ema is not None:
            weights["an EMA weight"] = [*run.ema.module.state_dict().values()]
        for name, values in weights.items():
            wrong = torch.stack([~value.isfinite().all() for value in values]).any().float()
            if run.accelerator.reduce(wrong, "sum"):  # the losses are those before the last step
                broken.append(name)
        self._check_finite(broken)
        epoch = round(run.step / run.plan.steps_per_epoch, 4)
        lr = max(group["lr"] for group in run.optimizer.param_groups)
        self.journal.write("train", run.step, {"epoch": epoch, "lr": lr, **record})

    def _check_finite(self, broken: list[str]) -> None:
        """Raise FloatingPointError if any of these is not finite."""
        if broken:
            raise FloatingPointError(
                f"{' and '.join(broken)} is not finite after step {self.run.step}. Lower --lr, warm up, clip "
                "gradients, or train in bf16; then go on from the last checkpoint, "
                f"{self.run.checkpoints.latest() or 'none yet'}."
            )

    def _evaluate_and_save(self) -> dict[str, float]:
        run, result = self.run, self.evaluator.all()
        self._check_finite([f"{name} of the evaluation" for name, value in result.items() if not math.isfinite(value)])
        record: dict[str, Any] = {"epoch": run.step / run.plan.steps_per_epoch, **result}
        if corrupt := self.evaluator.corrupt:
            record["corrupt_rows"] = corrupt
            self.journal.say(f"{len(corrupt)} broken images are left out of the evaluation.")
        self.journal.write("eval", run.step, record)
        self.journal.keep("reliability", run.step, self.evaluator.bins)
        if result[run.metric] > run.best.get(run.metric, -1.0):
            run.best = {"step": run.step, **result}
        self._save()
        self.export.push_if_due(result)
        return result

    def _save(self) -> None:
        self.run.save()
        self.metrics.restart_clock()

    def _finish(self, result: dict[str, float]) -> None:
        """Leave the weights of the best evaluation, in memory and in ``model/``, and the curves."""
        run = self.run
        self._write_effect()
        run.best = run.best or {"step": run.step, **result}
        self.export.finish()
        for tracker in run.accelerator.trackers:
            tracker.finish()
        run.accelerator.wait_for_everyone()
        self.export.publish()
