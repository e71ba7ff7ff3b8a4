"""How the rows of a run are dealt to optimizer steps and micro-batches."""

from typing import Any, NamedTuple

from ..config import TrainConfig


class BatchPlan(NamedTuple):
    """The identity of a run: two runs of one plan see the same micro-batches, whatever the number of processes.

    Attributes:
        rows: Rows of an epoch.
        micro_batch: Images of a forward pass.
        micros: Micro-batches of an optimizer step, over all processes.
        seed: Seed of the run.
    """

    rows: int
    micro_batch: int
    micros: int
    seed: int

    @property
    def batch(self) -> int:
        """Images of an optimizer step."""
        return self.micro_batch * self.micros

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of an epoch; its last, incomplete batch is dropped."""
        return self.rows // self.batch


def plan_batches(config: TrainConfig, train: Any, processes: int, saved: BatchPlan | None) -> BatchPlan:
    """The batch plan of the options; of a resumed run, the one that it had.

    Raises:
        ValueError: batches do not divide; the data are fewer than a batch; the run had another plan.
    """
    if config.eval_only:  # only the size of its forward passes matters
        return BatchPlan(config.batch_size, config.micro_batch_size or config.batch_size, 1, config.seed)
    rows = len(train) if not config.streaming else config.train_samples or _streamed_rows(config, train)
    if saved is not None:
        micro_batch = config.micro_batch_size or saved.micro_batch
        asked = (rows, micro_batch, config.batch_size, config.seed)
        if asked != (saved.rows, saved.micro_batch, saved.batch, saved.seed):
            raise ValueError(
                f"a run can only be resumed as it was begun, with {saved}; got {asked[0]} rows, micro_batch_size "
                f"{asked[1]}, batch_size {asked[2]}, seed {asked[3]}. The number of processes may change."
            )
    micro_batch = config.micro_batch_size or (saved.micro_batch if saved else config.batch_size // processes)
    if not micro_batch or config.batch_size % (micro_batch * processes):
        raise ValueError(
            f"batch_size must be a multiple of micro_batch_size * processes, got {config.batch_size} and "
            f"{config.micro_batch_size or micro_batch} * {processes}. Choose one that {processes} divides."
        )
    if micro_batch == 1 and set(config.mixers) != {"none"} and config.mix_prob > 0:
        raise ValueError("micro_batch_size must be >= 2 to mix, which happens within a forward pass, got 1.")
    plan = BatchPlan(rows, micro_batch, config.batch_size // micro_batch, config.seed)
    if not plan.steps_per_epoch:
        raise ValueError(
            f"batch_size must be at most the training rows, got {config.batch_size} of {rows} rows. Pass a smaller "
            "--batch-size."
        )
    return plan


def _streamed_rows(config: TrainConfig, train: Any) -> int:
    split = (train.info.splits or {}).get(config.train_split)
    if split is None or not split.num_examples:
        raise ValueError(f"{config.data} does not say how many rows it has: pass --train-samples to stream it.")
    return int(split.num_examples)
