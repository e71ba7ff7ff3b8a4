"""What the comparing recipes share: a run that is done once, its last measurement, and numbers with their spread."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from alignmix_timm.config import TrainConfig
from alignmix_timm.journal import read_journal
from alignmix_timm.running import run


def measured(config: TrainConfig) -> dict[str, float]:
    """The last evaluation of a run; it is trained if it was not, and goes on where it was stopped."""
    output = Path(config.output)
    if not (output / "model").exists():
        run(config)
    return [record for record in read_journal(output / "metrics.jsonl") if record["kind"] == "eval"][-1]


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation."""
    return f"{statistics.mean(values):.2f}" + (f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else "")
