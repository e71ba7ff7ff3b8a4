"""What a run is made of, built from its options, and where it stands."""

from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs

from ..points import unannounced
from ..seeds import Stream, seed_all
from .build import (
    build_ema,
    build_lr_schedule,
    build_model,
    build_optimizer,
    learning_rate,
    trained_beside,
    without_weights,
    wrap_model,
)
from .checkpoint import Checkpoints, find, read_progress, write_progress
from .config import TrainConfig
from .damage import check_whole
from .data.batches import plan_batches
from .data.classes import save_classes, saved_classes
from .data.loaders import Loaders
from .data.splits import load_splits, synthetic_splits
from .data.transforms import data_config
from .journal import check_trackers
from .meters import in_order
from .mixing import build_mixer
from .option_changes import check_changes


class Run:
    """A training run, built from its options, and loaded from a checkpoint where they say so.

    Attributes:
        config: The options, with those that follow from the data and the processes filled in.
        net: The timm model; ``model`` wraps it, prepared for training.
        ema: Its EMA weights, or None.
        beside: Parameters that are trained and not published.
        hooks: On the network.
        mixer: How batches are mixed.
        plan: How the rows are dealt to optimizer steps.
        metric: Name of the measure by which evaluations are compared.
        step: Optimizer steps done so far.
        total: Optimizer steps of the whole run.
        best: The best evaluation so far, with its step; empty before the first.
        corrupt: Training rows that could not be read or augmented so far; those of all processes at each log line.

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
        if start is not None:
            check_whole(start)
            check_changes(config, start)
        saved = None if start is None else read_progress(start)["schedule"]
        splits = None if config.dry_run else load_splits(config, None if start is None else saved_classes(start))
        seed_all(config.seed, Stream.INIT)
        self.net = build_model(
            config if start is None else without_weights(config),
            len(splits.names) if splits else config.num_classes or 10,
        )
        self.data = data_config(self.net, config)
        self.splits = splits or synthetic_splits(config, self.data["input_size"])
        self.plan = plan_batches(config, self.splits.train, self.accelerator.num_processes, saved)
        config = replace(config, micro_batch_size=self.plan.micro_batch, lr=learning_rate(config))
        self.config = config
        self.total = config.epochs * self.plan.steps_per_epoch
        self.net.to(self.accelerator.device, memory_format=self.memory_format)
        self.ema = build_ema(self.net, config)
        self.metric = "top1" if self.ema is None else "ema_top1"
        self.mixer = build_mixer(config, self.plan.steps_per_epoch)
        with unannounced():
            wrapped = wrap_model(self.net, config, self.data, self.mixer)
        self.hooks = wrapped.hooks
        self.beside = trained_beside(self.net, wrapped)
        optimizer = build_optimizer(self.net, config, self.beside)
        self.lr_schedule = build_lr_schedule(optimizer, config, self.plan.steps_per_epoch)
        self.model, self.optimizer = self.accelerator.prepare(wrapped, optimizer)
        self.loaders = Loaders(config, self.splits, self.data, self.plan, self.accelerator, self.memory_format)
        self.step, self.best = 0, dict[str, float]()
        self.corrupt: set[int | str] = set()
        if start is not None:
            self.load(start)
            if not config.eval_only:
                self._take_over()

    def load(self, folder: Path) -> None:
        """Continue from a checkpoint."""
        self.accelerator.load_state(str(folder))
        progress = read_progress(folder)
        self.step, self.best = progress["step"], progress["best"]
        self.corrupt.update(progress["corrupt_rows"])
        if self.ema is not None:
            if not (folder / "ema.pt").exists():
                raise ValueError(f"model_ema must be off to go on from {folder}, which holds no EMA weights.")
            self.ema.module.load_state_dict(torch.load(folder / "ema.pt", "cpu", weights_only=True))

    def save(self) -> None:
        """Write a checkpoint, in every process.

        Raises:
            OSError: it could not be written. What was there before is intact.
        """
        self.checkpoints.save(self.step, self.accelerator, self._write_more, self._best_step)

    @property
    def _best_step(self) -> int | None:
        return int(self.best["step"]) if self.best else None

    def _take_over(self) -> None:
        """Renew the links of a run that goes on; forget a best evaluation whose checkpoint is not in this folder."""
        if self._best_step not in self.checkpoints.all():
            self.best = {}
        if self.accelerator.is_main_process:
            self.checkpoints.link(self._best_step)

    def _write_more(self, folder: Path) -> None:
        write_progress(folder, self.config, self.plan, self.step, self.best, in_order(self.corrupt))
        save_classes(folder, self.splits.names)
        if self.ema is not None:
            torch.save(self.ema.module.state_dict(), folder / "ema.pt")

    @property
    def memory_format(self) -> torch.memory_format:
        """That of images and weights."""
        return torch.channels_last if self.config.channels_last else torch.contiguous_format
