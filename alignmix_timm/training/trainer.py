"""The training engine: one loop over updates, the same on any number of processes, and exact when resumed.

Everything random is drawn from (seed, purpose, place): the order of the rows from the epoch, augmentation from (epoch,
row), mixing and dropout from (update, micro-batch). So a checkpoint holds weights, optimizer, averages and the number
of updates, and no random state.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, send_to_device
from timm.models import model_parameters
from timm.utils import dispatch_clip_grad, distribute_bn
from torch import Tensor, nn

from ..evaluation.accuracy import no_scores, reliability, scores, summary
from ..params import Place
from ..points import unannounced
from ..points.effect import alignment_effect
from ..publishing.push import Uploads
from ..publishing.save import save_for_timm
from ..seeds import Stream, seed_all
from .build import (
    build_ema,
    build_model,
    build_optimizer,
    build_schedule,
    learning_rate,
    model_args,
    trained_beside,
    without_weights,
    wrap_model,
)
from .checkpoint import Checkpoints, check_changes, find, read_progress, write_options, write_progress
from .config import TrainConfig
from .console import done_line, start_lines, wrapped
from .curves import draw_run
from .data.batches import make_schedule
from .data.loaders import Loaders
from .data.splits import load_splits, synthetic_splits
from .data.transforms import data_config
from .journal import Journal, check_trackers
from .meters import Metrics
from .mixing import build_mixer, mixed_accuracy
from .provenance import exported_step, of_run
from .signals import StopSignal


class Run:
    """A training run, built from its options, and resumed where they say so.

    Attributes:
        step: Updates done so far.
        total: Updates of the whole run.
        best: The best evaluation so far, with its step; empty before the first.
        bins: Of the last evaluation, by confidence; see :func:`alignmix_timm.evaluation.accuracy.reliability`.

    Raises:
        ValueError: options, data, model and checkpoint do not go together.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.folder = Path(config.output)
        decodes = config.method != "alignmix"  # then each mode leaves a part of the model out
        self.accelerator = Accelerator(
            mixed_precision=config.mixed_precision,
            log_with=config.trackers or None,
            project_dir=config.output,
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=decodes)],
        )
        self.checkpoints = Checkpoints(self.folder, config.keep_checkpoints)
        check_trackers(config)
        start = find(config.eval_only) if config.eval_only else self.checkpoints.choose(config.resume)
        saved = None if start is None else read_progress(start)["schedule"]
        if start is not None:
            check_changes(config, start)
        splits = None if config.dry_run else load_splits(config)
        seed_all(config.seed, Stream.INIT)
        self.net = build_model(
            config if start is None else without_weights(config),
            len(splits.names) if splits else config.num_classes or 10,
        )
        self.data = data_config(self.net, config)
        self.splits = splits or synthetic_splits(config, self.data["input_size"])
        self.schedule = make_schedule(config, self.splits.train, self.accelerator.num_processes, saved)
        config = replace(config, micro_batch_size=self.schedule.micro_batch, lr=learning_rate(config))
        self.config = config
        self.total = config.epochs * self.schedule.updates_per_epoch
        self.net.to(self.accelerator.device, memory_format=self._memory_format())
        self.ema = build_ema(self.net, config)
        self.metric = "top1" if self.ema is None else "ema_top1"
        self.mixer = build_mixer(config, self.schedule.updates_per_epoch)
        with unannounced():
            wrapped = wrap_model(self.net, config, self.data, self.mixer)
        self.hooks = wrapped.hooks
        self.beside = trained_beside(self.net, wrapped)
        optimizer = build_optimizer(self.net, config, self.beside)
        self.lr_schedule = build_schedule(optimizer, config, self.schedule.updates_per_epoch)
        self.model, self.optimizer = self.accelerator.prepare(wrapped, optimizer)
        self.loaders = Loaders(config, self.splits, self.data, self.schedule, self.accelerator)
        self.metrics = Metrics(self.schedule.micro_batch)
        self.step, self.best = 0, dict[str, float]()
        self.bins: dict[str, list[float]] = {}
        if start is not None:
            self.load(start)
            if not config.eval_only and not self.checkpoints.hold_best(self.best, self.accelerator):
                self.best = {}

    def fit(self) -> dict[str, float]:
        """Train to the end, or to a signal; return the last evaluation.

        Raises:
            FloatingPointError: the loss is not finite; raised before the next checkpoint is written.
            SystemExit: 128 + the number of the signal at which the run was stopped, after saving.
        """
        finished = self.step >= self.total
        if finished and self.best and exported_step(self.folder / "model") == self.best["step"]:
            self.accelerator.print(f"The run in {self.folder} is finished: nothing to do.\n{self._done()}")
            result = self.evaluate_all()
            self._publish(self._uploads(self.accelerator.print))
            return result
        self.journal = Journal(self.folder, self.accelerator, self.total, self.step)
        self.uploads = self._uploads(self.journal.say)
        stop = StopSignal()
        try:
            result = self.evaluate_all() if finished else self._train(stop)
            self._finish(result)
        finally:
            stop.close()
            self.journal.close()
        return result

    def _train(self, stop: StopSignal) -> dict[str, float]:
        self.start()
        self._describe()
        self.metrics.restart_clock()
        batches, result = self.loaders.train(self.step, self.total), dict[str, float]()
        while self.step < self.total:
            if number := stop.agreed():
                self._log()
                self._save()
                self.journal.say(f"Stopped by signal {number} after step {self.step}, saved: go on with --resume auto.")
                raise SystemExit(128 + number)
            self.update(batches)
            self.step += 1
            self.journal.advance()
            epoch, place = divmod(self.step, self.schedule.updates_per_epoch)
            ended = place == 0
            evaluated = self.step == self.total or (ended and epoch % self.config.eval_every == 0)
            saved = self.config.checkpoint_every and self.step % self.config.checkpoint_every == 0
            if ended or saved or self.step % self.config.log_every == 0:
                self._log()
            if evaluated:
                result = self._evaluate_and_save()
            elif saved:
                self._save()
            if ended:
                self.journal.end_epoch(epoch, self.config, result if evaluated else {}, self.best)
        self.hooks.check()
        return result

    def _uploads(self, say: Callable[[str], None]) -> Uploads | None:
        """In the main process, where the run is to be published."""
        if self.config.push_to_hub is None or not self.accelerator.is_main_process:
            return None
        return Uploads(self.folder, self.config.push_to_hub, self.config.hub_private, say)

    def _publish(self, uploads: Uploads | None) -> None:
        """Upload the model at the end of the run."""
        if uploads is not None:
            uploads.start(self.folder / "model")
            uploads.wait()

    def evaluate(self, net: nn.Module) -> dict[str, float]:
        """Measure on every row of the evaluation split exactly once, whatever the number of processes."""
        return summary(self._scores(net))

    def _scores(self, net: nn.Module) -> Tensor:
        """Sums over the evaluation split and all processes."""
        if self.accelerator.num_processes > 1:
            distribute_bn(net, self.accelerator.num_processes)  # batch-norm statistics of the main process, as saved
        self.model.eval()
        net.eval()
        sums = no_scores().to(self.accelerator.device)
        with torch.no_grad(), self.accelerator.autocast():
            for batch in self.loaders.evaluation():
                self.metrics.corrupt.update(batch["corrupt"])
                if "pixel_values" in batch:
                    batch = self._to_device(batch)
                    sums = sums + scores(net(batch["pixel_values"]), batch["labels"])
        self.model.train()
        return self.accelerator.reduce(sums, "sum").cpu()

    def evaluate_all(self) -> dict[str, float]:
        """The measurements of the model, and, with the prefix ``ema_``, of its average."""
        nets = {"": self.net} if self.ema is None else {"": self.net, "ema_": self.ema.module}
        sums = {prefix: self._scores(net) for prefix, net in nets.items()}
        self.bins = {prefix + name: bins for prefix, one in sums.items() for name, bins in reliability(one).items()}
        return {prefix + name: value for prefix, one in sums.items() for name, value in summary(one).items()}

    def load(self, folder: Path) -> None:
        """Continue from a checkpoint."""
        self.accelerator.load_state(str(folder))
        progress = read_progress(folder)
        self.step, self.best = progress["step"], progress["best"]
        if self.ema is not None:
            if not (folder / "ema.pt").exists():
                raise ValueError(f"model_ema must be off to go on from {folder}, which holds no average.")
            self.ema.module.load_state_dict(torch.load(folder / "ema.pt", "cpu", weights_only=True))

    def start(self) -> None:
        """Get ready for :meth:`update`.

        Lets DDP settle the order in which it sums gradients, which it otherwise changes after the first update: a run
        resumed on three processes or more would add in another order than the run that was killed.
        """
        if self.accelerator.num_processes > 1:
            self.model.eval()
            images = torch.zeros(self.schedule.micro_batch, *self.data["input_size"], device=self.accelerator.device)
            for _ in range(2):
                self.model(images, torch.zeros(len(images), dtype=torch.int64, device=images.device))[0].backward()
            self.optimizer.zero_grad()
        self.model.train()

    def update(self, batches: Iterator[dict[str, Any]]) -> None:
        """One update of the weights, from as many micro-batches as fall to this process."""
        if self.lr_schedule is not None:
            self.lr_schedule.step_update(self.step)
        count = self.schedule.micros // self.accelerator.num_processes
        for turn in range(count):
            with self.metrics.waiting():
                batch = self._to_device(next(batches))
            self.metrics.corrupt.update(batch["corrupt"])
            last = turn == count - 1
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.model):
                loss = self._forward(batch, turn * self.accelerator.num_processes + self.accelerator.process_index)
                self.accelerator.backward(loss / count)
        if self.config.clip_grad is not None:
            self.accelerator.unscale_gradients()
            parameters = model_parameters(self.net, exclude_head=self.config.clip_mode == "agc")
            dispatch_clip_grad([*parameters, *self.beside.values()], self.config.clip_grad, self.config.clip_mode)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.ema is not None:
            self.ema.update(self.net, self.step + 1)

    def _forward(self, batch: dict[str, Any], micro: int) -> Tensor:
        """The loss of one micro-batch, mixed as drawn for its place in the run."""
        params = self.mixer.draw(len(batch["labels"]), Place(self.config.seed, self.step, micro))
        seed_all(self.config.seed, Stream.NETWORK, self.step, micro)
        output = self.model(batch["pixel_values"], batch["labels"], params)
        classified = output.logits is not None
        accuracy = mixed_accuracy(output.logits, output.targets, self.config.smoothing) if classified else None
        self.metrics.add(params.label, output.loss, accuracy, self.hooks.transport)
        return output.loss

    def _log(self) -> None:
        """Write the means since the last line; stop a run that is broken, before it can be saved."""
        record = self.metrics.take(self.accelerator)
        if not record:
            return
        broken = [name for name, value in record.items() if name.startswith("loss") and not math.isfinite(value)]
        weights = [*self.net.state_dict().values(), *self.beside.values()]
        wrong = torch.stack([~value.isfinite().all() for value in weights]).any().float()
        if self.accelerator.reduce(wrong, "sum"):  # the losses are those before the last update
            broken.append("a weight")
        if broken:
            raise FloatingPointError(
                f"{' and '.join(broken)} is not finite after step {self.step}. Lower --lr, warm up, clip gradients, "
                f"or train in bf16; then go on from the last checkpoint, {self.checkpoints.latest() or 'none yet'}."
            )
        epoch = round(self.step / self.schedule.updates_per_epoch, 4)
        lr = max(group["lr"] for group in self.optimizer.param_groups)
        self.journal.write("train", self.step, {"epoch": epoch, "lr": lr, **record})

    def _evaluate_and_save(self) -> dict[str, float]:
        result = self.evaluate_all()
        self.journal.write("eval", self.step, {"epoch": self.step / self.schedule.updates_per_epoch, **result})
        self.journal.keep("reliability", self.step, self.bins)
        improved = result[self.metric] > self.best.get(self.metric, -1.0)
        if improved:
            self.best = {"step": self.step, **result}
        self._save(improved)
        epoch = self.step // self.schedule.updates_per_epoch
        due = self.config.push_every and epoch % self.config.push_every == 0 and self.step < self.total
        if self.uploads is not None and due:
            self.uploads.export(self.step, lambda folder: self._save_model(folder, self.step, result))
        return result

    def _save(self, best: bool = False) -> None:
        self.checkpoints.save(self.step, self.accelerator, self._write_more, best)
        self.metrics.restart_clock()

    def _write_more(self, folder: Path) -> None:
        write_progress(folder, self.config, self.schedule, self.step, self.best)
        if self.ema is not None:
            torch.save(self.ema.module.state_dict(), folder / "ema.pt")

    def _describe(self) -> None:
        """Say what is about to happen; start the trackers; measure the effect of alignment."""
        config = self.config
        plain = (int, float, str, bool)
        options = {name: value if isinstance(value, plain) else str(value) for name, value in asdict(config).items()}
        self.accelerator.init_trackers(config.project, config=options)
        for line in start_lines(config, self.splits, self.schedule, self.step, self.accelerator):
            self.journal.say(line)
        if self.mixer.mixes_inside:
            mixes = "AlignMix mixes" if None in self.mixer.feature_layers else "This run mixes"
            self.journal.say(wrapped(f"{mixes} {self.hooks.describe(self.mixer.feature_layers)}."))
        if self.accelerator.is_main_process:
            write_options(self.folder, config)
        if self.step == 0:
            self._write_effect()

    def _write_effect(self) -> None:
        if self.mixer.aligns:  # in every process: synchronised batch norm waits for all
            effect = alignment_effect(self.hooks.model, self.hooks.point, self.hooks.alignment)
            self.journal.write("effect", self.step, {"alignment_effect": effect})
            self.journal.say(f"Alignment changes the logits of mixed features by {100 * effect:.2g} % of their size.")

    def _save_model(self, folder: Path, updates: int, result: dict[str, float], best: bool = False) -> None:
        """Save the weights as they are now, with their evaluation, for plain timm."""
        net = self.net if self.ema is None else self.ema.module
        provenance = of_run(
            self.folder,
            self.config,
            result,
            updates=updates,
            step=self.step,
            best_by=self.metric if best else None,
            rows=self.schedule.rows,
            split=self.splits.split,
            held_out=self.splits.held_out,
            mixing=str(self.hooks.point),
        )
        save_for_timm(net, folder, self.splits.names, self.data, model_args(self.config), provenance=provenance)

    def _finish(self, result: dict[str, float]) -> None:
        """Leave the weights of the best evaluation, in memory and in ``model/``, and the curves."""
        self._write_effect()
        self.best = self.best or {"step": self.step, **result}
        if self.step != self.best["step"]:
            self.load(self.checkpoints.best)
        if self.accelerator.is_main_process:
            self._save_model(self.folder / "model", self.total, self.best, best=True)
            draw_run(self.folder)
        if not self.config.dry_run:  # which deletes its folder
            self.journal.say(self._done())
        for tracker in self.accelerator.trackers:
            tracker.finish()
        self.accelerator.wait_for_everyone()
        self._publish(self.uploads)

    def _done(self) -> str:
        return done_line(self.best, self.metric, self.total, len(self.splits.names), self.folder)

    def _to_device(self, batch: dict[str, Any]) -> dict[str, Any]:
        batch = send_to_device(batch, self.accelerator.device, non_blocking=True)
        batch["pixel_values"] = batch["pixel_values"].contiguous(memory_format=self._memory_format())
        return batch

    def _memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.config.channels_last else torch.contiguous_format
