"""Folders of class folders: which of them are splits, and the images and classes in each, as torchvision finds them."""

import os
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from torchvision.datasets.folder import IMG_EXTENSIONS

from .split_names import is_word, trains, word_of

IMAGES = (*IMG_EXTENSIONS, ".avif", ".dds", ".gif", ".jfif", ".jp2", ".tga")
_TABLES = (".parquet", ".arrow")
_SHARDS = (*_TABLES, ".tar", ".zip")
_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")  # of the image folders of Hugging Face


class ClassFolder(NamedTuple):
    """The images in a folder of class folders, in torchvision's order, and what else is in it, in words."""

    paths: list[str]
    labels: list[str]
    left_out: list[str]


def split_folders(root: Path) -> tuple[dict[str, Path], list[str]]:
    """The folders of class folders in a dataset, by split, decided from its top folders alone.

    Returns:
        ``{"train": root}`` where it holds the classes itself, and nothing where it is a dataset of another kind; and
        the top folders that belong to no split, in words.

    Raises:
        ValueError: it can be read in several ways, or holds a single class; the message says how to choose.
    """
    tops = {one.name: one for one in _folders(root) if _has_images(one)}
    if not tops or _is_table(root, tops):
        return {}, []
    _check_hidden(root, [str(path) for path in tops.values()])
    named = [name for name in tops if word_of(name)]
    if len(named) < len(tops):
        _check_classes(root, tops, named)
        return {"train": root}, []
    nested = {name: path for name, path in tops.items() if not _own_images(path)}
    flat = [name for name in tops if name not in nested]
    if not nested or any(trains(name) or _image_folders(tops[name]) for name in flat):
        raise ValueError(_either(root, f"images lie beside, or in place of, class folders in {', '.join(flat)}"))
    return nested, [*(f"{name} (images without class folders)" for name in flat), *_beside(root, [*tops])]


def read_class_folder(folder: Path, option: str) -> ClassFolder:
    """Every image below each class folder, with the name of that folder as its label.

    Raises:
        ValueError: there is none; links in a circle; hidden images, which some libraries read and others do not.
    """
    if not folder.is_dir():
        raise ValueError(f"{option} must be a folder of class folders, got {str(folder)!r}, which is no folder.")
    folder, paths, labels = folder.absolute(), list[str](), list[str]()
    others: Counter[str] = Counter()
    for one in _folders(folder):
        found = [(place, name) for place, names in sorted(_walk(one)) for name in sorted(names)]
        images = [os.path.join(place, name) for place, name in found if _is_image(name)]
        paths += images
        labels += [one.name] * len(images)
        if images:
            others.update(_kind(name) for _, name in found if not _is_image(name))
    _check_hidden(folder, paths)
    if not paths:
        raise ValueError(f"{option} must be a folder of class folders with images, got {str(folder)!r}.")
    others.pop("", None)
    left_out = [f"{kind} files ({count})" for kind, count in sorted(others.items())]
    return ClassFolder(paths, labels, [*_beside(folder, set(labels)), *left_out])


def _beside(folder: Path, used: Collection[str]) -> list[str]:
    """The folders that are not used, and the files that are in none."""
    empty = [one.name for one in _folders(folder) if one.name not in used and not one.name.startswith(".")]
    images = len(_own_images(folder))
    files = [one.name for one in sorted(folder.iterdir()) if one.is_file() and not _is_image(one.name)]
    return [
        *(f"{name} (no images)" for name in empty),
        *([f"images in no class folder ({images})"] if images else []),
        *(name for name in files if not name.startswith(".")),
    ]


def _check_classes(root: Path, tops: dict[str, Path], named: list[str]) -> None:
    """Refuse class folders of which some may be splits, or all may be one folder too deep."""
    for name in named:
        within = {one.name for one in _image_folders(tops[name])}
        if not is_word(name) or not within or _own_images(tops[name]):
            continue
        beside = {one.name for other in tops.keys() - {name} for one in _image_folders(tops[other])} | tops.keys()
        if trains(name) or within & beside:
            raise ValueError(_either(root, f"{name} may be a split or a class, beside {_other(name, tops)}"))
    if len(tops) == 1:
        only = next(iter(tops.values()))
        raise ValueError(
            f"{str(root)!r} holds images in one folder only, {only.name!r}. If the class folders are in that one, pass "
            f"--data {only}; if it is the only class, --train-dir {root}."
        )


def _other(name: str, tops: dict[str, Path]) -> str:
    return next(one for one in tops if one != name)


def _either(root: Path, how: str) -> str:
    return (
        f"{str(root)!r} can be read in several ways: {how}. If the folders there are the classes, pass --train-dir "
        f"{root}; if they are splits, --train-dir and --val-dir with the folder of class folders of each."
    )


def _is_table(root: Path, tops: dict[str, Path]) -> bool:
    """Whether the rows are in files of ``datasets``, or labelled by its metadata, and images are only beside them."""
    described = [root, *(path for name, path in tops.items() if word_of(name))]
    if any((folder / name).is_file() for folder in described for name in _METADATA):
        return True
    files = [one for one in root.iterdir() if one.suffix in _TABLES]
    beside = (one for one in _folders(root) if one.name not in tops and not one.name.startswith("."))
    return bool(files) or any(one.suffix in _SHARDS for folder in beside for one in folder.iterdir())


def _folders(folder: Path) -> list[Path]:
    """Its folders, also linked ones, in order; a broken link would be a class that vanishes."""
    found = sorted(folder.iterdir(), key=lambda one: one.name)
    broken = [one.name for one in found if one.is_symlink() and not one.exists()]
    if broken:
        raise ValueError(f"in {str(folder)!r} {broken[0]!r} is a link to what does not exist: mend or remove it.")
    return [one for one in found if one.is_dir()]


def _walk(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Each folder below, with the names of its files; links are followed, but not in a circle."""
    for place, folders, names in os.walk(folder, followlinks=True, onerror=_raise):
        real = Path(os.path.realpath(place))
        for name in folders:
            linked = os.path.join(place, name)
            if os.path.islink(linked) and real.is_relative_to(os.path.realpath(linked)):
                raise ValueError(f"{linked!r} is a link to a folder that it is in: remove it.")
        yield place, names


def _raise(error: OSError) -> None:
    raise error


def _has_images(folder: Path) -> bool:
    return any(_is_image(name) for _, names in _walk(folder) for name in names)


def _own_images(folder: Path) -> list[str]:
    return [one.name for one in folder.iterdir() if _is_image(one.name) and not one.is_dir()]


def _image_folders(folder: Path) -> list[Path]:
    return [one for one in _folders(folder) if _has_images(one)]


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGES) and not name.startswith("._")  # of macOS: attributes of the image


def _kind(name: str) -> str:
    """What a file that is no image is counted as; hidden ones are not, unless others would read them as images."""
    if name.startswith("."):
        return "._*" if name.lower().endswith(IMAGES) else ""
    return Path(name).suffix.lower() or name


def _check_hidden(folder: Path, paths: list[str]) -> None:
    start = len(str(folder))
    hidden = [path for path in paths if f"{os.sep}." in path[start:]]
    if hidden:
        raise ValueError(
            f"images in {str(folder)!r} are hidden, such as {hidden[0][start + 1 :]!r}, {len(hidden)} in all: "
            "torchvision reads them, others do not. Delete or rename them."
        )
