"""The training engine: one loop over updates, the same on any number of processes, and exact when resumed.

Everything random is drawn from (seed, purpose, place): the order of the rows from the epoch, augmentation from (epoch,
row), mixing and dropout from (update, micro-batch). So a checkpoint holds weights, optimizer, averages and the number
of updates, and no random state.
"""

import contextlib
import math
import signal
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

from .building import (
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
from .data import load_splits, synthetic_splits
from .effect import alignment_effect
from .errors import outlive_launcher
from .evaluation.accuracy import no_scores, scores, summary
from .journal import Journal, check_trackers, draw_curves
from .loaders import Loaders
from .metrics import Metrics
from .mixing import Mixing, mixed_accuracy
from .publish import save_for_timm
from .pushing import Uploads
from .run_provenance import of_run
from .schedule import make_schedule
from .seeds import Stream, seed_all
from .stopping import StopSignal
from .transforms import data_config


class Run:
    """A training run, built from its options, and resumed where they say so.

    Attributes:
        step: Updates done so far.
        total: Updates of the whole run.

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
        wrapped = wrap_model(self.net, config, self.data)
        self.hooks = wrapped.hooks
        self.beside = trained_beside(self.net, wrapped)
        optimizer = build_optimizer(self.net, config, self.beside)
        self.lr_schedule = build_schedule(optimizer, config, self.schedule.updates_per_epoch)
        self.model, self.optimizer = self.accelerator.prepare(wrapped, optimizer)
        self.mixing = Mixing(config, self.schedule.updates_per_epoch, len(self.splits.names))
        self.loaders = Loaders(config, self.splits, self.data, self.schedule, self.accelerator)
        self.metrics = Metrics(self.schedule.micro_batch)
        self.step, self.best = 0, -1.0
        if start is not None:
            self.load(start)

    def fit(self) -> dict[str, float]:
        """Train to the end, or to a signal; return the last evaluation.

        Raises:
            FloatingPointError: the loss is not finite; raised before the next checkpoint is written.
            SystemExit: 128 + the number of the signal at which the run was stopped, after saving.
        """
        finished = self.step >= self.total
        if finished and (self.folder / "model").exists():
            self.accelerator.print(f"The run in {self.folder} is finished: nothing to do.")
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
                if number == signal.SIGINT:
                    outlive_launcher()
                self.journal.say(
                    f"Stopped by signal {number} after update {self.step}, saved: go on with --resume auto."
                )
                raise SystemExit(128 + number)
            self.update(batches)
            self.step += 1
            self.journal.advance()
            epoch, place = divmod(self.step, self.schedule.updates_per_epoch)
            if self.step == self.total or (place == 0 and epoch % self.config.eval_every == 0):
                self._log()
                result = self._evaluate_and_save()
            elif self.config.checkpoint_every and self.step % self.config.checkpoint_every == 0:
                self._log()
                self._save()
            elif self.step % self.config.log_every == 0:
                self._log()
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
        return summary(self.accelerator.reduce(sums, "sum").cpu())

    def evaluate_all(self) -> dict[str, float]:
        """The measurements of the model, and, with the prefix ``ema_``, of its average."""
        result = self.evaluate(self.net)
        if self.ema is not None:
            result |= {f"ema_{name}": value for name, value in self.evaluate(self.ema.module).items()}
        return result

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
        images, labels, params, name = self.mixing(batch["pixel_values"], batch["labels"], self.step, micro)
        seed_all(self.config.seed, Stream.NETWORK, self.step, micro)
        loss, logits = self.model(images, labels, params)
        accuracy = None if logits is None else mixed_accuracy(logits, labels, params)
        self.metrics.add(name, loss, accuracy, self.hooks.transport)
        return loss

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
                f"{' and '.join(broken)} is not finite after update {self.step}. Lower --lr, warm up, clip gradients, "
                f"or train in bf16; then go on from the last checkpoint, {self.checkpoints.latest() or 'none yet'}."
            )
        epoch = round(self.step / self.schedule.updates_per_epoch, 4)
        lr = max(group["lr"] for group in self.optimizer.param_groups)
        self.journal.write("train", self.step, {"epoch": epoch, "lr": lr, **record})

    def _evaluate_and_save(self) -> dict[str, float]:
        result = self.evaluate_all()
        self.journal.write("eval", self.step, {"epoch": self.step / self.schedule.updates_per_epoch, **result})
        score = result["ema_top1" if self.ema is not None else "top1"]
        improved, self.best = score > self.best, max(score, self.best)
        self._save(improved)
        epoch = self.step // self.schedule.updates_per_epoch
        due = self.config.push_every and epoch % self.config.push_every == 0 and self.step < self.total
        if self.uploads is not None and due:
            self.uploads.export(self.step, lambda folder: self._save_model(folder, result))
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
        config, processes = self.config, self.accelerator.num_processes
        plain = (int, float, str, bool)
        options = {name: value if isinstance(value, plain) else str(value) for name, value in asdict(config).items()}
        self.accelerator.init_trackers(config.project, config=options)
        per_forward, forwards = self.schedule.micro_batch, self.schedule.micros
        self.journal.say(
            f"{config.model} on {self.schedule.rows} rows of {config.data or 'synthetic images'}: updates {self.step} "
            f"to {self.total}, {self.schedule.updates_per_epoch} an epoch, {per_forward * forwards} images each: "
            f"{forwards} x {per_forward} over {processes} processes on {self.accelerator.device.type}, "
            f"mixed precision {self.accelerator.mixed_precision}. AlignMix mixes {self.hooks.point}."
        )
        if self.accelerator.is_main_process:
            write_options(self.folder, config)
        if self.step == 0:
            self._write_effect()

    def _write_effect(self) -> None:
        if self.config.aligned and self.mixing.aligns:  # in every process: synchronised batch norm waits for all
            config, point = self.config, self.hooks.point
            effect = alignment_effect(
                self.hooks.model, point, config.epsilon, config.cost_scale, config.align_size, config.max_positions
            )
            self.journal.write("effect", self.step, {"alignment_effect": effect})

    def _save_model(self, folder: Path, result: dict[str, float]) -> None:
        net = self.net if self.ema is None else self.ema.module
        split = getattr(self.splits.test, "split", None)
        provenance = of_run(
            self.folder,
            self.config,
            result,
            updates=self.step,
            rows=self.schedule.rows,
            split=None if split is None else str(split),
            mixing=str(self.hooks.point),
        )
        save_for_timm(net, folder, self.splits.names, self.data, model_args(self.config), provenance=provenance)

    def _finish(self, result: dict[str, float]) -> None:
        self._write_effect()
        if self.accelerator.is_main_process:
            self._save_model(self.folder / "model", result)
            draw_curves(self.journal.path, self.folder / "curves.png")
        self.journal.say(f"Done: weights for plain timm are in {self.folder / 'model'}.")
        for tracker in self.accelerator.trackers:
            tracker.finish()
        self.accelerator.wait_for_everyone()
        self._publish(self.uploads)

    def _to_device(self, batch: dict[str, Any]) -> dict[str, Any]:
        batch = send_to_device(batch, self.accelerator.device, non_blocking=True)
        batch["pixel_values"] = batch["pixel_values"].contiguous(memory_format=self._memory_format())
        return batch

    def _memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.config.channels_last else torch.contiguous_format
