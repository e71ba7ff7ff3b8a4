"""What a recipe does with its options: train, evaluate a checkpoint, or a dry run."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator

from ..publishing.save import load_for_timm
from .build import check_names
from .config import TrainConfig, parse_config
from .console import evaluation_lines
from .errors import told_in_a_sentence
from .evaluator import Evaluator
from .launch import start_processes
from .run import Run
from .run_folder import locked, temporary_folder
from .trainer import Trainer


def main(
    argv: Sequence[str] | None = None,
    defaults: str | Path | None = None,
    description: str | None = None,
    prog: str | None = None,
) -> dict[str, float]:
    """Read the options and run.

    Args:
        argv: Command line; default ``sys.argv[1:]``.
        defaults: YAML file of the recipe's own options.
        description: Shown by ``--help``.
        prog: Name of the command; default that of the script.

    Returns:
        The last evaluation.

    Raises:
        SystemExit: wrong options or data, with a sentence and no traceback; or stopped by a signal, after saving.
    """
    config = parse_config(argv, defaults, description, prog)
    with told_in_a_sentence():
        return run(config)


def run(config: TrainConfig) -> dict[str, float]:
    """Train, evaluate, or both for a moment, as the options say; return the last evaluation.

    Raises:
        ValueError, FloatingPointError, OSError, SystemExit: see :class:`Run` and :meth:`Trainer.fit`.
    """
    config.check()
    check_names(config)  # before the data are loaded, which may take hours
    accelerator = start_processes(config.mixed_precision)
    if config.dry_run:
        with temporary_folder(Path(f"{config.output}-dry-run"), accelerator) as folder:
            return _dry_run(config, folder, accelerator)
    if config.eval_only:
        return _evaluate_only(config)
    with locked(Path(config.output)):
        return Trainer(Run(config)).fit()


def _evaluate_only(config: TrainConfig) -> dict[str, float]:
    loaded = Run(config)
    for line in evaluation_lines(config, loaded.splits, str(config.eval_only)):
        loaded.accelerator.print(line)
    evaluator = Evaluator(loaded)
    result = evaluator.all()
    if loaded.accelerator.is_main_process:
        left_out = {"corrupt_rows": evaluator.corrupt} if evaluator.corrupt else {}
        print(json.dumps({"checkpoint": config.eval_only, "step": loaded.step, **result, **left_out}))
    return result


def _dry_run(config: TrainConfig, folder: Path, accelerator: Accelerator) -> dict[str, float]:
    """Two optimizer steps, an evaluation, a checkpoint; load both kinds of weights again, and compare."""
    processes = accelerator.num_processes
    accumulated = 1 if config.micro_batch_size in (None, config.batch_size // processes) else 2
    config = dataclasses.replace(
        config,
        output=str(folder),
        batch_size=4 * accumulated * processes,
        micro_batch_size=4,
        epochs=1,
        warmup_epochs=0,
        workers=0 if config.workers == 0 else 1,
        pretrained=False,
        initial_checkpoint=None,
        eval_only=None,
        streaming=False,
        log_every=1,
        resume="no",
        trackers=[],
        push_to_hub=None,
        push_every=None,
    )
    trained = Run(config)
    trainer = Trainer(trained)
    trainer.fit()
    before = trainer.evaluator.one(trained.net)
    with torch.no_grad():
        for parameter in trained.net.parameters():
            parameter.zero_()
    trained.load(folder / "last")
    after = trainer.evaluator.one(trained.net)
    if before != after:
        raise ValueError(f"the checkpoint evaluates to {after}, the model it was saved from to {before}.")
    load_for_timm(folder / "model")
    accelerator.print(
        f"Dry run of {config.model}: two optimizer steps, evaluation, checkpoint and weights for timm work."
    )
    return after
