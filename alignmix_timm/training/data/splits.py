"""The rows that a run trains and is evaluated on: the splits, columns and classes of a dataset, found and checked."""

from dataclasses import dataclass, field
from typing import Any

import datasets
import numpy as np

from ...seeds import Stream, generator
from ..config import TrainConfig
from .classes import check_same
from .labels import check_labels, class_names, encode, find_image, find_label, is_integer, is_string
from .parts import choose_parts, describe
from .sources import ClassFolders


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
        found: Names of all splits of the dataset, as far as they are known.
        other_labels: Columns that could have been the label.
        left_out: What of a folder is in no split, in words.
    """

    train: Any
    test: Any
    image: str
    label: str
    names: list[str]
    split: str | None = None
    held_out: bool = False
    found: list[str] = field(default_factory=list)
    other_labels: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def load_splits(config: TrainConfig, classes: list[str] | None = None) -> Splits:
    """Load the dataset that the options name.

    Args:
        config: The options.
        classes: Those that a checkpoint was trained with, where there is one.

    Raises:
        ValueError: it cannot be loaded or reached; a split, column or label is not as it must be. The message says
            what was found.
    """
    training, evaluation = choose_parts(config, classes)
    test: Any = None if evaluation is None else evaluation.load()
    train: Any = test if training is None else training.load(config.streaming)
    columns, other_labels = _columns(train, config, of_folders=training is None and config.val_dir is not None)
    if config.val_dir is not None:
        test = test.rename_columns(dict(zip(test.column_names, columns, strict=True)))
    rows = [train] if test is None else [train, test]
    by_folder = evaluation is not None and isinstance(evaluation.source, ClassFolders)
    rows, names = _with_indices(rows, columns, config, classes, by_folder)
    for part in rows:
        if isinstance(part, datasets.Dataset):  # before rows are drawn: then it is quick
            check_labels(part, columns[1], names)
    train, test = hold_out(rows[0], config) if test is None else rows
    train, test = _shortened(train, config), _some(test, config.max_eval_samples, config)
    train, test = (part.cast_column(columns[0], datasets.Image(decode=False)) for part in (train, test))
    parts = [part for part in (evaluation, training) if part is not None]
    found, left_out = describe(parts, config)
    return Splits(train, test, *columns, names, parts[0].split, evaluation is None, found, other_labels, left_out)


def synthetic_splits(config: TrainConfig, size: tuple[int, int, int]) -> Splits:
    """Random images of the right shape, for a dry run."""
    rng, names = generator(config.seed, Stream.SPLIT), [str(number) for number in range(config.num_classes or 10)]
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=names))

    def rows(count: int) -> Any:
        pixels = rng.integers(0, 256, (count, size[1], size[2], 3), dtype=np.uint8)
        columns = {"image": list(pixels), "label": rng.integers(0, len(names), count).tolist()}
        return datasets.Dataset.from_dict(columns, features=features)

    train, test = rows(2 * config.batch_size), rows(config.batch_size + 1)
    train, test = (part.cast_column("image", datasets.Image(decode=False)) for part in (train, test))
    return Splits(train, test, "image", "label", names)


def _columns(rows: Any, config: TrainConfig, of_folders: bool) -> tuple[tuple[str, str], list[str]]:
    """The columns of images and labels, and those that could have been the label."""
    if of_folders:
        return ("image", "label"), []
    if rows.features is None:
        raise ValueError(f"{config.data} does not describe its columns, which streaming needs: use --no-streaming.")
    image, label = find_image(rows.features, config.image_column), find_label(rows.features, config.label_column)
    if image.name == label.name:
        raise ValueError(
            f"image_column and label_column must be two columns of {list(rows.features)}, both are {image.name!r}."
        )
    return (image.name, label.name), label.others


def _with_indices(
    parts: list[Any], columns: tuple[str, str], config: TrainConfig, classes: list[str] | None, by_folder: bool
) -> tuple[list[Any], list[str]]:
    """The rows with class indices as labels, in two columns, and the names of the classes.

    Of class folders those of the training rows decide: one that is only among the evaluation rows is refused.
    """
    label = columns[1]
    for part in parts:
        if missing := [name for name in columns if name not in part.features]:
            raise ValueError(f"the evaluation split must have {missing} too, it has {list(part.features)}.")
    parts = [part.select_columns(list(columns)) for part in parts]
    names, by_value = class_names(parts[:1] if by_folder else parts, label, config)
    if classes is not None:
        if config.eval_only and by_value and set(names) <= set(classes):
            names = classes  # a class may have no row there
        check_same(names, classes)

    def has_indices(feature: Any) -> bool:
        return not (is_string(feature) or (by_value and is_integer(feature)))

    return [part if has_indices(part.features[label]) else encode(part, label, names) for part in parts], names


def _shortened(train: Any, config: TrainConfig) -> Any:
    """At most as many training rows as asked for, as a stream where they are to be one."""
    if not config.streaming:
        return _some(train, config.max_train_samples, config)
    if isinstance(train, datasets.Dataset):
        train = train.to_iterable_dataset(num_shards=min(64, len(train)))
    return train if config.max_train_samples is None else train.take(config.max_train_samples)


def hold_out(train: Any, config: TrainConfig) -> tuple[Any, Any]:
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
