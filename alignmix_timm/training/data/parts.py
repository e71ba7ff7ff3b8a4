"""Which splits of which source a run trains and is evaluated on."""

from pathlib import Path
from typing import Any, NamedTuple

from ..config import TrainConfig, find_config, read_yaml
from .sources import ClassFolders, Loaded, Source, find_source
from .split_names import evaluation_split


class Part(NamedTuple):
    """A split of a dataset."""

    source: Source
    split: str

    def load(self, streaming: bool = False) -> Any:
        return self.source.load(self.split, streaming)


def choose_parts(config: TrainConfig, classes: list[str] | None) -> tuple[Part | None, Part | None]:
    """The splits to train and to evaluate on.

    Without the first the second is enough: a checkpoint is evaluated on classes that are known, or on data without
    anything else. Without the second it is held out of the first.
    """
    source = find_source(config)
    evaluation = evaluation_part(config, source)
    if evaluation is None and not measures_all(config):
        if config.streaming:
            raise ValueError(f"{config.data} has no evaluation split among {source.names}: pass --val-split.")
        return _part(config, source, config.train_split), None
    if config.eval_only and (classes is not None or source.find(config.train_split) not in source.names):
        return None, evaluation or _part(config, source, config.train_split)
    training = _part(config, source, config.train_split)
    return training, evaluation or training


def evaluation_part(config: TrainConfig, source: Source) -> Part | None:
    """The evaluation split; None where there is none."""
    if config.val_dir is not None:
        folder = Path(config.val_dir).expanduser()
        name = folder.resolve().name
        return Part(ClassFolders({name: folder}, [], "val_dir"), name)
    if config.val_split is not None:
        return _part(config, source, config.val_split)
    split = evaluation_split(source.names)
    return None if split is None else Part(source, split)


def _part(config: TrainConfig, source: Source, wanted: str) -> Part:
    found = source.find(wanted)
    if found is None:
        raise ValueError(
            f"cannot load split {wanted!r} of {config.train_dir or config.data!r}: it has {source.names}. Pass "
            "--train-split or --val-split with one of them, or --train-dir and --val-dir with folders of class folders."
        )
    return Part(source, found)


def describe(parts: list[Part], config: TrainConfig) -> tuple[list[str], list[str]]:
    """The splits of the dataset, as far as they are known, and what of it is not used."""
    source = parts[-1].source
    asked_for = isinstance(source, Loaded) and config.val_split is not None  # then the names are not looked up
    names = [] if asked_for else source.names
    used = [part.split for part in parts if part.source is source]
    beside = parts[0].source.left_out if parts[0].source is not source else []
    return names, [*(f"split {name}" for name in names if name not in used), *source.left_out, *beside]


def measures_all(config: TrainConfig) -> bool:
    """Whether a checkpoint is evaluated on other data than it was trained on: then no row has to be held out."""
    if not config.eval_only:
        return False
    saved = read_yaml(find_config(config.eval_only))
    names = ("data", "train_dir", "data_config", "revision", "train_split")
    return any(_place(saved.get(name)) != _place(getattr(config, name)) for name in names)


def _place(value: str | None) -> str | Path | None:
    path = Path(value).expanduser() if value else None
    return path.resolve() if path is not None and path.exists() else value
