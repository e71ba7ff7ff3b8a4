"""The options with which a run goes on, compared with those of its checkpoint."""

import logging
from pathlib import Path

from ..sinkhorn import check_cost_scale
from .config import TrainConfig, read_yaml
from .mixing import aligns
from .options import names_of

_logger = logging.getLogger(__name__)


def check_changes(config: TrainConfig, checkpoint: Path) -> None:
    """Say which options differ from those of the checkpoint that a run goes on from.

    Raises:
        ValueError: one that the checkpoint itself decides: the model, or what is in the state of its optimizer; or one
            that is no longer there.
    """
    found = changes(config, checkpoint)
    if "cost_scale" in found and not config.eval_only and aligns(config):
        _check_saved_scale(checkpoint)
    fixed = names_of(config, "model") if config.eval_only else names_of(config, "model", "optimizer")
    fixed = [name for name in fixed if name in found]
    if fixed:
        told = "; ".join(found[name] for name in fixed)
        raise ValueError(f"a run must go on with the options its checkpoint was made with: {told}.")
    if found:
        _logger.warning("Other options than in %s: %s.", checkpoint, "; ".join(found.values()))


def _check_saved_scale(checkpoint: Path) -> None:
    """Raise ValueError for a run that was trained with a scale of the cost that is no longer there."""
    try:
        check_cost_scale(read_yaml(checkpoint / "config.yaml")["cost_scale"])
    except ValueError as error:
        raise ValueError(
            f"the run of {checkpoint} cannot go on as it was trained. {error} To go on otherwise, set cost_scale and "
            "epsilon in its config.yaml."
        ) from error


def changes(config: TrainConfig, checkpoint: Path) -> dict[str, str]:
    """Options that matter to a run and differ from those of its checkpoint: by name, both values in words."""
    saved = TrainConfig(**read_yaml(checkpoint / "config.yaml")).to_save()
    given = config.to_save()
    of_this_call = names_of(config, "call")
    changed = [name for name in given if name not in of_this_call and saved[name] != given[name]]
    resolved = ("lr", "micro_batch_size")
    return {
        name: f"{name} {saved[name]!r}, got {given[name]!r}"
        for name in changed
        if not (given[name] is None and name in resolved)
    }
