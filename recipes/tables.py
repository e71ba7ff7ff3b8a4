"""What the comparing recipes share: a run that is done once, its last measurement, and numbers with their spread."""

import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

from alignmix_timm.training.config import TrainConfig
from alignmix_timm.training.journal import read_journal
from alignmix_timm.training.main import run
from alignmix_timm.training.option_changes import changes


def measured(config: TrainConfig) -> dict[str, float]:
    """The last evaluation of a run; it is trained if it was not, and goes on where it was stopped.

    Raises:
        SystemExit: the run was made with other options, or cannot be made.
    """
    output = Path(config.output)
    if (output / "last").exists() and (other := changes(config, output / "last")):
        sys.exit(f"error: {output} holds a run of other options: {', '.join(other.values())}. Choose another --output.")
    try:
        if not (output / "model").exists():
            run(config)
    except (ValueError, FloatingPointError, OSError) as error:
        sys.exit(f"error: {output}: {error}")
    return [record for record in read_journal(output / "metrics.jsonl") if record["kind"] == "eval"][-1]


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation."""
    return f"{statistics.mean(values):.2f}" + (f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else "")
