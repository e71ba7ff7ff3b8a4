"""The columns of images and labels, and the classes that the labels mean."""

from typing import Any, NamedTuple

import datasets

from ..config import TrainConfig

_IMAGES = ("image", "img", "pixel_values")
_LABELS = ("label", "labels", "fine_label")
_OTHER_LABELS = ("class", "class_name", "class_id", "category", "target", "coarse_label")
_MANY = 100  # classes that may have a single row each


class Found(NamedTuple):
    """A column, and those that could have been meant in its place."""

    name: str
    others: list[str]


def find_image(features: datasets.Features, wanted: str | None) -> Found:
    """The column of images: of a usual name, else the only one.

    Raises:
        ValueError: not there, or not told from others.
    """
    typed = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    usual = sorted((name for name in features if name.lower() in _IMAGES), key=lambda name: name not in typed)
    return _choose("image_column", wanted, features, usual, typed)


def find_label(features: datasets.Features, wanted: str | None) -> Found:
    """The column of labels: label, labels, or fine_label; else the only one that holds classes or is named so.

    Raises:
        ValueError: not there, or not told from others.
    """
    usual = [name for name in features if name.lower() in _LABELS]
    usual.sort(key=lambda name: (_strength(features[name]), _LABELS.index(name.lower())))
    classes = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    likely = [name for name in features if name in classes or name.lower() in _OTHER_LABELS]
    return _choose("label_column", wanted, features, usual, likely)


def _choose(option: str, wanted: str | None, features: Any, usual: list[str], likely: list[str]) -> Found:
    if wanted is not None and wanted in features:
        return Found(wanted, [])
    flag = "--" + option.replace("_", "-")
    if wanted is not None or not (usual or likely):
        hint = "" if wanted else f" Pass {flag}; the classes of a folder of images are the folders in it."
        raise ValueError(f"{option} must be one of the columns {list(features)}, got {wanted}.{hint}")
    if not usual and len(likely) > 1:
        raise ValueError(f"{option} may be any of {', '.join(likely)}: pass {flag} with one of them.")
    chosen = (usual or likely)[0]
    return Found(chosen, [name for name in dict.fromkeys((*usual, *likely)) if name != chosen])


def _strength(feature: Any) -> int:
    """Classes and integers go before strings, and these before what cannot be a label."""
    if isinstance(feature, datasets.ClassLabel) or is_integer(feature):
        return 0
    return 1 if is_string(feature) else 2


def is_integer(feature: Any) -> bool:
    """Whether a column holds integers."""
    return isinstance(feature, datasets.Value) and feature.dtype.startswith(("int", "uint"))


def is_string(feature: Any) -> bool:
    """Whether a column holds strings."""
    return isinstance(feature, datasets.Value) and feature.dtype in ("string", "large_string")


def class_names(parts: list[Any], label: str, config: TrainConfig) -> tuple[list[str], bool]:
    """The names of the classes, and whether the labels are still to be encoded as their indices.

    Integers without names are indices where ``num_classes`` says of how many; else their distinct values are the
    classes, as those of strings are.

    Raises:
        ValueError: they are no classes, are not known, or are others in another part.
    """
    feature = parts[0].features[label]
    if isinstance(feature, datasets.ClassLabel):
        names = list(feature.names)
        if any(getattr(part.features[label], "names", names) != names for part in parts):
            raise ValueError(f"the classes of the training and evaluation splits of {config.data} differ.")
        return _of_this_count(names, label, config), False
    kinds = [part.features[label] for part in parts]
    streams = any(isinstance(part, datasets.IterableDataset) for part in parts)
    if all(map(is_integer, kinds)):
        if config.num_classes:
            return [str(number) for number in range(config.num_classes)], False
        if streams:
            raise ValueError(f"the labels {label!r} of {config.data} have no names: pass --num-classes to stream them.")
    elif not all(map(is_string, kinds)) or streams:
        raise ValueError(
            "label_column must hold one class of each image, as classes or integers, or strings where nothing streams; "
            f"{label!r} is {' and '.join(sorted({_kind(kind) for kind in kinds}))}. Pass --label-column with another "
            f"of {list(parts[0].features)}."
        )
    return _distinct(parts, label, config), True


def _distinct(parts: list[Any], label: str, config: TrainConfig) -> list[str]:
    values = {value for part in parts for value in part.unique(label)}
    wrong = [value for value in values if value is None or (isinstance(value, int) and value < 0)]
    if wrong:
        raise ValueError(
            f"{label!r} must be a class in every row, got {sorted(wrong, key=str)[:5]} in one of the splits. Pass "
            "--val-split: the labels of a test split are often hidden."
        )
    rows = len(parts[0])
    if len(values) > max(_MANY, rows // 2) and config.label_column is None:
        raise ValueError(
            f"{label!r} has {len(values)} different values in {rows} rows, and seems not to hold classes. Pass "
            f"--label-column with one of {list(parts[0].features)}; with {label!r}, if it does."
        )
    return _of_this_count([str(value) for value in sorted(values)], label, config)


def _of_this_count(names: list[str], label: str, config: TrainConfig) -> list[str]:
    if config.num_classes not in (None, len(names)):
        raise ValueError(f"num_classes must be that of {label!r}, which has {len(names)}, got {config.num_classes}.")
    return names


def _kind(feature: Any) -> str:
    return str(getattr(feature, "dtype", None) or type(feature).__name__) if not isinstance(feature, list) else "lists"


def encode(rows: datasets.Dataset, label: str, names: list[str]) -> datasets.Dataset:
    """The rows with their labels as indices of the names.

    Raises:
        ValueError: a label is not among them.
    """
    index = {name: number for number, name in enumerate(names)}
    values = [str(value) for value in rows.select_columns([label])[:][label]]
    unknown = sorted(set(values) - index.keys())
    if unknown:
        shown = ", ".join(unknown[:5]) + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else "")
        raise ValueError(f"the evaluation rows have classes that are not trained on: {shown}.")
    indices = [index[value] for value in values]
    features = datasets.Features({label: datasets.ClassLabel(names=names)})
    encoded = datasets.Dataset.from_dict({label: indices}, features=features)
    return datasets.concatenate_datasets([rows.remove_columns([label]), encoded], axis=1, split=rows.split)


def check_labels(rows: datasets.Dataset, label: str, names: list[str]) -> None:
    """Raise ValueError for labels that are hidden, missing or too large, which would end a run in its middle."""
    wrong = [value for value in rows.unique(label) if value is None or not 0 <= value < len(names)]
    if wrong:
        raise ValueError(
            f"{label!r} must be in [0, {len(names)}) in every row, got {wrong[:5]} in one of the splits. Pass "
            "--num-classes, or --val-split: the labels of a test split are often hidden."
        )
