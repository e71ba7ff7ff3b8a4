"""The provenance of the weights of a training run, from its options and its own files."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import timm
from timm.models import get_pretrained_cfg

from ..publishing.card import METRICS
from ..publishing.provenance import Base, Provenance, find_dataset, local_path, without_paths
from ..publishing.save import PROVENANCE
from .config import TrainConfig
from .journal import read_journal
from .mixing import aligns
from .options import names_of


def of_run(
    folder: Path,
    config: TrainConfig,
    results: dict[str, float],
    updates: int,
    step: int,
    best_by: str | None,
    rows: int,
    split: str | None,
    held_out: bool,
    mixing: str,
) -> Provenance:
    """The provenance of the weights of a run.

    Args:
        folder: Of the run.
        config: Its resolved options.
        results: The evaluation, of the model and, with the prefix ``ema_``, of its EMA weights: those are published
            where there are any.
        updates: Optimizer steps done so far.
        step: After which the weights are.
        best_by: Measurement in which they are the best; None if they were not chosen.
        rows: Of the training split.
        split, held_out: See :class:`alignmix_timm.publishing.provenance.Dataset`.
        mixing: Where the model is mixed.
    """
    prefix = "ema_" if config.model_ema else ""
    own = {name.removeprefix(prefix): value for name, value in results.items() if name.startswith(prefix)}
    data = find_dataset(config.train_dir or config.data or "synthetic images", config.data_config, config.revision)
    data.train_rows, data.eval_rows = rows, int(own["rows"])
    data.eval_split, data.held_out = split, held_out
    return Provenance(
        dataset=data,
        results={name: value for name, value in own.items() if name in METRICS},
        seed=config.seed,
        mixing=mixing if aligns(config) and config.micro_batch_size != 1 else None,
        epochs=config.epochs,
        updates=updates,
        step=step,
        best_by=best_by,
        seconds=_seconds(folder / "metrics.jsonl", config.batch_size),
        base=_base(config),
        options=_changed(config),
    )


def exported_step(folder: Path) -> int | None:
    """The step of the weights in a folder of :func:`alignmix_timm.save_for_timm`; None if it tells none."""
    path = folder / PROVENANCE
    run = json.loads(path.read_text())["run"] if path.exists() else None
    return run and run.get("step")


def _base(config: TrainConfig) -> Base | None:
    """The weights that a run begins with, also for one that was resumed and did not load them itself."""
    start = config.initial_checkpoint or (config.model if config.pretrained else None)
    if start is None:
        return None
    if start.startswith("hf-hub:"):
        name = start.removeprefix("hf-hub:")
        try:
            described, *_ = timm.models.load_model_config_from_hf(name)
        except Exception:  # offline and not in the cache
            described = {}
        return Base(name.partition("@")[0], True, described.get("license"))
    path = Path(start).resolve() if config.initial_checkpoint else local_path(start)
    if path is not None:
        described_at = path / "config.json"
        described = json.loads(described_at.read_text()).get("pretrained_cfg", {}) if described_at.exists() else {}
        return Base(path.name, license=described.get("license"))
    known: Any = get_pretrained_cfg(start)
    if known is None:
        return Base(start)
    on_hub = (known.hf_hub_id or "").rstrip("/")
    name = f"{known.architecture}.{known.tag}" if known.tag else str(known.architecture)
    if on_hub:
        name = on_hub if "/" in on_hub else f"{on_hub}/{name}"
    return Base(name, bool(on_hub), known.license)


def _changed(config: TrainConfig) -> dict[str, Any]:
    """Options that are not at their defaults; without those, and paths, that say where files of this machine are."""
    defaults, given, local = asdict(TrainConfig()), asdict(config), names_of(config, "source", "call")
    return {
        name: without_paths(value) for name, value in given.items() if value != defaults[name] and name not in local
    }


def _seconds(journal: Path, batch_size: int) -> float | None:
    """Time spent in optimizer steps, over all the times that the run was resumed."""
    if not journal.exists():
        return None
    seconds, done = 0.0, 0
    for record in read_journal(journal):
        if record["kind"] == "train":
            seconds += (record["step"] - done) * batch_size / record["images_per_second"]
            done = record["step"]
    return round(seconds, 1)
