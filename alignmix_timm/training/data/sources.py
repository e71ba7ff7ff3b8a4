"""Where the rows of a run are: a folder of class folders, a dataset of ``save_to_disk``, or what ``datasets`` loads."""

import contextlib
import re
from collections.abc import Iterator
from functools import cached_property
from glob import has_magic
from pathlib import Path
from typing import Any, Protocol

import datasets

from ..config import TrainConfig
from .class_folders import IMAGES, read_class_folder, split_folders
from .class_lists import check_class_lists, features_without_repeated_names
from .damage import reason_of
from .split_names import find_split, trains, word_of

_DATA = (".parquet", ".arrow", ".csv", ".json", ".jsonl", ".tar", ".zip")


class Source(Protocol):
    """The splits of one dataset.

    Attributes:
        left_out: What of it belongs to no split, in words, as far as it was looked at.
    """

    left_out: list[str]

    @property
    def names(self) -> list[str]:
        """The names of its splits."""

    def find(self, wanted: str) -> str | None:
        """The name of the split that an option asks for."""

    def load(self, split: str, streaming: bool = False) -> Any:
        """The rows of a split, as an iterable dataset where they stream and are not on this machine."""


def find_source(config: TrainConfig) -> Source:
    """The source that ``train_dir`` or ``data`` names.

    Raises:
        ValueError: it can be read in several ways.
    """
    if config.train_dir is not None:
        return ClassFolders({"train": Path(config.train_dir).expanduser()}, [], "train_dir")
    path = Path(config.data).expanduser()
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        return Saved(path)
    if path.is_dir():
        folders, left_out = split_folders(path)
        if folders:
            return ClassFolders(folders, left_out, "data")
    return Loaded(config, path if path.exists() else None)


class ClassFolders:
    """Splits that are folders of class folders; labels are the names of these."""

    def __init__(self, folders: dict[str, Path], left_out: list[str], option: str) -> None:
        self.folders, self.left_out, self.option = folders, list(left_out), option
        self.names = list(folders)

    def find(self, wanted: str) -> str | None:
        return find_split(wanted, self.names)

    def load(self, split: str, streaming: bool = False) -> datasets.Dataset:
        folder = self.folders[split]
        paths, labels, left_out = read_class_folder(folder, self.option)
        within = f"{split}/" if len(self.names) > 1 else ""
        self.left_out += [within + words for words in left_out]
        features = datasets.Features(image=datasets.Image(), label=datasets.Value("string"))
        named = datasets.NamedSplit(re.sub(r"\W", "_", split))
        try:
            return datasets.Dataset.from_dict({"image": paths, "label": labels}, features=features, split=named)
        except UnicodeEncodeError as error:
            raise ValueError(f"the names of files in {str(folder)!r} must be UTF-8: {error}. Rename them.") from error


class Saved:
    """A dataset that ``save_to_disk`` wrote; without splits it is one, train."""

    def __init__(self, path: Path) -> None:
        self.path, self.left_out = path, list[str]()

    @cached_property
    def parts(self) -> dict[str, datasets.Dataset]:
        with _told("the splits", str(self.path), self.path):
            try:
                saved = datasets.load_from_disk(str(self.path))
            except IndexError as error:  # datasets cannot read what it wrote then
                raise ValueError("one of them has no rows") from error
        return dict(saved) if isinstance(saved, dict) else {"train": saved}

    @property
    def names(self) -> list[str]:
        return list(self.parts)

    def find(self, wanted: str) -> str | None:
        return find_split(wanted, self.names)

    def load(self, split: str, streaming: bool = False) -> datasets.Dataset:
        return self.parts[split]


class Loaded:
    """What ``datasets.load_dataset`` finds, on the Hub or in a folder.

    Args:
        config: Names it.
        folder: Where it is on this machine; None on the Hub.
    """

    def __init__(self, config: TrainConfig, folder: Path | None) -> None:
        self.config, self.folder, self.left_out = config, folder, list[str]()
        self.name = config.data if folder is None else str(folder)
        self.revision = config.revision if folder is None else None
        if folder is not None and has_magic(str(folder.resolve())):
            raise ValueError(
                f"data must be a path without brackets, *, and ? where it holds no class folders, got {self.name!r}: "
                "datasets takes them for patterns. Rename the folder, or link to it from another."
            )

    @cached_property
    def names(self) -> list[str]:
        with _told(f"split {self.config.train_split!r}", self.name, self.folder):
            return datasets.get_dataset_split_names(
                self.name, self.config.data_config, revision=self.revision, features=self._features
            )

    @cached_property
    def _features(self) -> datasets.Features | None:
        """Those to read instead of the stated ones; None to read these."""
        return None if self.folder is None else features_without_repeated_names(self.folder)

    def find(self, wanted: str) -> str | None:
        return wanted  # what is not there is said when it is loaded

    def load(self, split: str, streaming: bool = False) -> Any:
        if self.folder is not None:
            self._check_files()
        with _told(f"split {split!r}", self.name, self.folder):
            return datasets.load_dataset(
                self.name,
                self.config.data_config,
                split=split,
                streaming=streaming,
                revision=self.revision,
                features=self._features,
            )

    def _check_files(self) -> None:
        """Note the files that are in no split.

        Raises:
            ValueError: one is in another split than its name says; or the classes of two differ.
        """
        assert self.folder is not None
        with _told(f"split {self.config.train_split!r}", self.name, self.folder):
            builder = datasets.load_dataset_builder(self.name, self.config.data_config, features=self._features)
        found = builder.config.data_files or {}
        files = {Path(file): str(split) for split, some in found.items() for file in some if "://" not in file}
        root = self.folder.resolve()
        for file, split in files.items():
            _check_split(file.relative_to(root) if file.is_relative_to(root) else Path(file.name), split)
        check_class_lists(list(files))
        if not self.config.data_config:  # each configuration has files of its own
            unused = sorted(one for one in root.rglob("*") if one.suffix in (*_DATA, *IMAGES) and one not in files)
            self.left_out = [str(one.relative_to(root)) for one in unused if not _hidden(one.relative_to(root))]


@contextlib.contextmanager
def _told(what: str, name: str, folder: Path | None) -> Iterator[None]:
    """The errors of several libraries become one sentence."""
    try:
        yield
    except Exception as error:
        raise ValueError(
            f"cannot load {what} of {name!r}: {reason_of(error, folder or Path(name))}. Pass --data a folder that "
            "exists, or the name of a dataset on the Hub that this machine can reach; --data-config, --revision and "
            "--train-split say which part."
        ) from error


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _check_split(file: Path, split: str) -> None:
    """``datasets`` knows a split by fewer words than people use, and none in capitals: the rest it trains on."""
    if word_of(split) is None or file.suffix.lower() in IMAGES:
        return
    words = [name for name in (*file.parts[:-1], file.stem) if word_of(name)]
    if words and not any(find_split(split, [name]) for name in words):
        means = "training" if trains(words[-1]) else "evaluation"
        raise ValueError(
            f"{str(file)!r} would be read as rows of the split {split!r}, and its name means {means}. Rename the files "
            "of each split to train-..., validation-... or test-..., in small letters."
        )
