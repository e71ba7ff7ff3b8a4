"""Evaluation of a run: every row of the evaluation split exactly once, whatever the number of processes."""

import torch
from timm.utils import distribute_bn
from torch import Tensor, nn

from ..evaluation.accuracy import no_scores, reliability, scores, summary
from .meters import in_order, of_all
from .run import Run


class Evaluator:
    """Measures the networks of a run.

    Attributes:
        corrupt: Rows left out of the last evaluation because they could not be read, of all processes.
        bins: Of the last evaluation, by confidence; see :func:`alignmix_timm.evaluation.accuracy.reliability`.
    """

    def __init__(self, run: Run) -> None:
        self.run, self.corrupt = run, list[int | str]()
        self.bins: dict[str, list[float]] = {}

    def all(self) -> dict[str, float]:
        """The measurements of the model, and, with the prefix ``ema_``, of its EMA weights."""
        run = self.run
        nets = {"": run.net} if run.ema is None else {"": run.net, "ema_": run.ema.module}
        sums = {prefix: self._scores(net) for prefix, net in nets.items()}
        self.bins = {prefix + name: bins for prefix, one in sums.items() for name, bins in reliability(one).items()}
        return {prefix + name: value for prefix, one in sums.items() for name, value in summary(one).items()}

    def one(self, net: nn.Module) -> dict[str, float]:
        """The measurements of one network."""
        return summary(self._scores(net))

    def _scores(self, net: nn.Module) -> Tensor:
        """Sums over the evaluation split and all processes."""
        run, accelerator = self.run, self.run.accelerator
        if accelerator.num_processes > 1:
            distribute_bn(net, accelerator.num_processes)  # batch-norm statistics of the main process, as saved
        run.model.eval()
        net.eval()
        sums, corrupt = no_scores().to(accelerator.device), set[int | str]()
        with torch.no_grad(), accelerator.autocast():
            for batch in run.loaders.evaluation():
                corrupt.update(batch["corrupt"])
                if "pixel_values" in batch:
                    sums = sums + scores(net(batch["pixel_values"]), batch["labels"])
        run.model.train()
        self.corrupt = in_order(of_all(corrupt, accelerator))
        return accelerator.reduce(sums, "sum").cpu()
