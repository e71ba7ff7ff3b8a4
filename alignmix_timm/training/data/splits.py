"""Image datasets of Hugging Face: by name on the Hub, or from a local folder; splits, columns and classes found."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from ...seeds import Stream, generator
from ..config import TrainConfig
from .damage import reason_of

_IMAGES, _LABELS = ("image", "img", "pixel_values"), ("label", "labels", "fine_label")
_EVALUATION = ("validation", "val", "valid", "dev", "test")  # the labels of a test split are often hidden


@dataclass
class Splits:
    """Training and evaluation rows of one dataset.

    Attributes:
        train: A map-style dataset, or an iterable one where it streams.
        test: A map-style dataset.
        image, label: Names of the columns.
        names: Names of the classes; the labels are class indices.
        split: That of the evaluation rows; None if they are synthetic.
        held_out: Whether these are the rows of the training split that were held out of the training.
    """

    train: Any
    test: Any
    image: str
    label: str
    names: list[str]
    split: str | None = None
    held_out: bool = False


def load_splits(config: TrainConfig) -> Splits:
    """Load the dataset that the options name.

    Raises:
        ValueError: it cannot be loaded or reached; a split, column or label is not as it must be. The message says
            what was found.
    """
    train = _load(config, config.train_split, config.streaming)
    features = train.features
    if features is None:
        raise ValueError(f"{config.data} does not describe its columns, which streaming needs: use --no-streaming.")
    image = _column("image_column", config.image_column, features, datasets.Image, _IMAGES)
    label = _column("label_column", config.label_column, features, datasets.ClassLabel, _LABELS)
    if image == label:
        raise ValueError(f"image_column and label_column must be two columns of {list(features)}, both are {image!r}.")
    found = [] if config.val_split else _names(config)
    split = config.val_split or next((name for name in _EVALUATION if name in found), None)
    if split is not None:
        test = _load(config, split, streaming=False)
    elif config.streaming:
        raise ValueError(f"{config.data} has no evaluation split among {found}: pass --val-split.")
    else:
        train, test = _hold_out(train, config)
    if image not in test.features or label not in test.features:
        raise ValueError(f"the evaluation split must have {image!r} and {label!r} too, it has {list(test.features)}.")
    test = _some(test, config.max_eval_samples, config)
    if config.max_train_samples is not None:
        train = (
            train.take(config.max_train_samples) if config.streaming else _some(train, config.max_train_samples, config)
        )
    train, test = (part.select_columns([image, label]) for part in (train, test))
    names = _class_names(train, test, label, config)
    train, test = (_undecoded(part, image, label, names) for part in (train, test))
    for part in (test,) if config.streaming else (train, test):
        _check_labels(part, label, names)
    return Splits(train, test, image, label, names, split or config.train_split, held_out=split is None)


def synthetic_splits(config: TrainConfig, size: tuple[int, int, int]) -> Splits:
    """Random images of the right shape, for a dry run."""
    rng, names = generator(config.seed, Stream.SPLIT), [str(number) for number in range(config.num_classes or 10)]
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=names))

    def rows(count: int) -> Any:
        pixels = rng.integers(0, 256, (count, size[1], size[2], 3), dtype=np.uint8)
        columns = {"image": list(pixels), "label": rng.integers(0, len(names), count).tolist()}
        return datasets.Dataset.from_dict(columns, features=features)

    train, test = rows(2 * config.batch_size), rows(config.batch_size + 1)
    train, test = (_undecoded(part, "image", "label", names) for part in (train, test))
    return Splits(train, test, "image", "label", names)


def _load(config: TrainConfig, split: str, streaming: bool) -> Any:
    """One split; the errors of several libraries become one sentence."""
    path = Path(config.data).expanduser()
    try:
        if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
            saved = datasets.load_from_disk(str(path))
            parts = saved if isinstance(saved, dict) else {"train": saved}
            if split not in parts:
                raise ValueError(f"unknown split {split!r}, it has {list(parts)}")
            return parts[split].to_iterable_dataset(num_shards=64) if streaming else parts[split]
        name, revision = (str(path), None) if path.exists() else (config.data, config.revision)
        return datasets.load_dataset(name, config.data_config, split=split, streaming=streaming, revision=revision)
    except Exception as error:
        raise ValueError(
            f"cannot load split {split!r} of {config.data!r}: {reason_of(error, path)}. Pass --data a folder that "
            "exists, or the name of a dataset on the Hub that this machine can reach; --data-config, --revision and "
            "--train-split say which part."
        ) from error


def _names(config: TrainConfig) -> list[str]:
    """Names of the splits."""
    path = Path(config.data).expanduser()
    if (path / "dataset_dict.json").exists():
        return list(datasets.load_from_disk(str(path)))
    if (path / "state.json").exists():
        return ["train"]
    name = str(path) if path.exists() else config.data
    return datasets.get_dataset_split_names(
        name, config.data_config, revision=None if path.exists() else config.revision
    )


def _column(option: str, wanted: str | None, features: Any, kind: type, usual: tuple[str, ...]) -> str:
    typed = [name for name, feature in features.items() if isinstance(feature, kind)]
    found = wanted or next((name for name in (*typed, *usual) if name in features), None)
    if found is None or found not in features:
        raise ValueError(f"{option} must be one of the columns {list(features)}, got {found}.")
    return found


def _hold_out(train: Any, config: TrainConfig) -> tuple[Any, Any]:
    """Evaluate on rows of the training split, drawn at random, and train on the rest."""
    order = generator(config.seed, Stream.SPLIT).permutation(len(train))
    count = round(config.val_fraction * len(train))
    if not 0 < count < len(train):
        raise ValueError(
            f"val_fraction must leave rows for both parts, got {config.val_fraction} of {len(train)} rows."
        )
    return train.select(np.sort(order[count:])), train.select(np.sort(order[:count]))


def _some(rows: Any, count: int | None, config: TrainConfig) -> Any:
    """At most this many rows, drawn at random."""
    if count is None or count >= len(rows):
        return rows
    return rows.select(np.sort(generator(config.seed, Stream.SPLIT).permutation(len(rows))[:count]))


def _class_names(train: Any, test: Any, label: str, config: TrainConfig) -> list[str]:
    feature = train.features[label]
    if isinstance(feature, datasets.ClassLabel):
        names = list(feature.names)
        if getattr(test.features[label], "names", names) != names:
            raise ValueError(f"the classes of the training and evaluation splits of {config.data} differ.")
        return _of_this_count(names, label, config)
    kind = str(getattr(feature, "dtype", feature))
    if "int" in kind:
        if config.streaming and not config.num_classes:
            raise ValueError(f"the labels {label!r} of {config.data} have no names: pass --num-classes to stream them.")
        count = config.num_classes or 1 + max(_known(train.unique(label)) + _known(test.unique(label)), default=0)
        return [str(number) for number in range(count)]
    if "string" not in kind or config.streaming:
        raise ValueError(
            f"label_column must hold classes or integers, or strings where nothing streams; {label!r} is {kind}."
        )
    return _of_this_count(sorted({*_known(train.unique(label)), *_known(test.unique(label))}), label, config)


def _of_this_count(names: list[str], label: str, config: TrainConfig) -> list[str]:
    if config.num_classes not in (None, len(names)):
        raise ValueError(f"num_classes must be that of {label!r}, which has {len(names)}, got {config.num_classes}.")
    return names


def _known(values: list[Any]) -> list[Any]:
    return [value for value in values if value is not None]


def _check_labels(rows: Any, label: str, names: list[str]) -> None:
    """Labels that are hidden, missing or too large are found here, not in the middle of a run."""
    wrong = [value for value in rows.unique(label) if value is None or not 0 <= value < len(names)]
    if wrong:
        raise ValueError(
            f"{label!r} must be in [0, {len(names)}) in every row, got {wrong[:5]} in one of the splits. Pass "
            "--num-classes, or --val-split: the labels of a test split are often hidden."
        )


def _undecoded(rows: Any, image: str, label: str, names: list[str]) -> Any:
    """Images as bytes, decoded in the data workers; labels as class indices."""
    rows = rows.cast_column(image, datasets.Image(decode=False))
    if "string" in str(getattr(rows.features[label], "dtype", "")):
        rows = rows.cast_column(label, datasets.ClassLabel(names=names))
    return rows
