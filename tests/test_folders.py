"""Folders of class folders are read as torchvision reads them, or refused; splits are decided from the top folders."""

import os
import random
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from alignmix_timm.training.config import TrainConfig
from alignmix_timm.training.data.class_folders import IMAGES, read_class_folder, split_folders
from alignmix_timm.training.data.split_names import evaluation_split, find_split
from alignmix_timm.training.data.splits import Splits, load_splits


def draw(root: Path, *names: str) -> Path:
    """Make these files, images or not."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() in IMAGES:
            Image.new("RGB", (2, 2)).save(path, "PNG")
        else:
            path.write_text("text")
    return root


def load(root: Path, **options: Any) -> Splits:
    return load_splits(TrainConfig(data=str(root), **{"val_fraction": 0.5} | options))


def read(splits: Splits, *parts: str) -> set[tuple[str, str]]:
    """The files of the splits, with the names of their classes."""
    rows = [row for part in parts for row in getattr(splits, part)]
    return {(os.path.realpath(row["image"]["path"]), splits.names[row["label"]]) for row in rows}


def torchvision(folder: Path) -> set[tuple[str, str]]:
    reference = ImageFolder(str(folder), allow_empty=True)
    return {(os.path.realpath(path), reference.classes[label]) for path, label in reference.samples}


@pytest.mark.parametrize(
    "names",
    [
        "valid invalid",
        "train training_shoes plane",
        "test cat dog",
        "Train cat",
        "dev-board val_disere owl",
        "holdout hold",
        "train2017 cat",
        "evaluation cat",
    ],
)
def test_classes_named_as_splits_are(names: str, tmp_path: Path) -> None:
    classes = names.split()
    files = ("1.png", "cat-test-x.jpg", "train.PNG", "2021/val-1.jpeg", "2022/1.png")
    splits = load(draw(tmp_path, *(f"{one}/{file}" for one in classes for file in files)))
    assert splits.names == sorted(classes)
    assert (splits.split, splits.held_out, splits.left_out) == ("train", True, [])
    assert read(splits, "train", "test") == torchvision(tmp_path)
    assert len(splits.train) + len(splits.test) == 5 * len(classes)


def test_subfolders_belong_to_their_class(tmp_path: Path) -> None:
    splits = load(draw(tmp_path, *(f"{one}/{year}/{year}.png" for one in ("cat", "dog") for year in (2021, 2022))))
    assert splits.names == ["cat", "dog"]
    assert read(splits, "train", "test") == torchvision(tmp_path)


@pytest.mark.parametrize(
    ("train", "evaluation"),
    [
        ("train", "val"),
        ("Train", "Test"),
        ("TRAINING", "Validation"),
        ("train", "validate"),
        ("train", "holdout"),
        ("train", "Hold-Out"),
        ("training_set", "test_set"),
        ("train2017", "val2017"),
        ("seg_train", "seg_test"),
        ("trainval", "test"),
        ("trainset", "testset"),
    ],
)
def test_splits_by_any_name(train: str, evaluation: str, tmp_path: Path) -> None:
    files = [f"{split}/{one}/x/1.png" for split in (train, evaluation) for one in ("cat", "dog", "test")]
    splits = load(draw(tmp_path, *files, f"{train}/owl/1.png"))
    assert (splits.split, splits.held_out, splits.names) == (evaluation, False, ["cat", "dog", "owl", "test"])
    assert read(splits, "train") == torchvision(tmp_path / train)
    assert read(splits, "test") == torchvision(tmp_path / evaluation)  # owl is missing there, and nothing shifts


def test_which_of_several_splits(tmp_path: Path) -> None:
    splits = ("train", "test", "Valid", "extra_val")
    draw(tmp_path, *(f"{split}/{one}/{split}.png" for split in splits for one in "ab"))
    assert load(tmp_path).split == "Valid"
    assert load(tmp_path, val_split="test").split == load(tmp_path, val_split="Testing").split == "test"
    assert load(tmp_path).found == ["Valid", "extra_val", "test", "train"]
    assert load(tmp_path).left_out == ["split extra_val", "split test"]
    draw(tmp_path, "VALID/a/1.png")
    with pytest.raises(ValueError, match="the evaluation split may be any of VALID, Valid: pass --train-split or"):
        load(tmp_path)
    assert load(tmp_path, val_split="VALID").split == "VALID"


def test_linked_folders_are_followed(tmp_path: Path) -> None:
    store = draw(tmp_path / "store", "x/1.png", "y/1.png", "y/deep/2.png")
    for split in ("train", "val"):
        (tmp_path / "data" / split).mkdir(parents=True)
        (tmp_path / "data" / split / "cat").symlink_to(store / "x")
        (tmp_path / "data" / split / "dog").symlink_to(store / "y")
    (tmp_path / "linked").mkdir()
    for split in ("train", "val"):
        (tmp_path / "linked" / split).symlink_to(tmp_path / "data" / split)
    for root in ("data", "linked"):
        splits = load(tmp_path / root)
        assert (splits.split, splits.names) == ("val", ["cat", "dog"])
        assert len(splits.train) == len(splits.test) == 3
        assert read(splits, "train") == torchvision(tmp_path / root / "train")
    (tmp_path / "classes").mkdir()
    (tmp_path / "classes" / "train").symlink_to(store / "x")
    (tmp_path / "classes" / "owl").symlink_to(store / "y")
    assert read(load(tmp_path / "classes"), "train", "test") == torchvision(tmp_path / "classes")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ("train/a/1.png train/b/1.png cat/a/1.png", "several ways: train may be a split or a class, beside cat"),
        ("holdout/cat/1.png holdout/dog/1.png cat/1.png dog/1.png", "holdout may be a split or a class"),
        ("mixed/cat/1.png test/cat/1.png mixed/dog/1.png", "test may be a split or a class, beside mixed"),
        ("train/1.png test/1.png", "images lie beside, or in place of, class folders in test, train"),
        ("train/a/1.png train/1.png test/a/1.png", "class folders in train"),
        ("images/a/1.png images/b/1.png", "one folder only, 'images'.*pass --data .*images; if it is the only class"),
        ("cat/1.png cat/.2.png dog/1.png", r"images in .* are hidden, such as 'cat/.2.png', 1 in all"),
        ("cat/1.png dog/1.png .old/1.png", r"are hidden, such as '.old'"),
        ("cat/1.png cat/.ipynb_checkpoints/1-checkpoint.png dog/1.png", "are hidden"),
        ("test/a/1.png test/b/1.png", r"cannot load split 'train' of .*: it has \['test'\]"),
        ("train/a/1.png train/b/1.png val/images/1.png", "classes that are not trained on: images"),
    ],
)
def test_what_can_be_read_in_several_ways_is_refused(files: str, message: str, tmp_path: Path) -> None:
    draw(tmp_path, *files.split())
    with pytest.raises(ValueError, match=message):
        load(tmp_path)


def test_links_that_lead_nowhere_or_in_a_circle_are_refused(tmp_path: Path) -> None:
    draw(tmp_path, "cat/1.png", "dog/1.png")
    (tmp_path / "owl").symlink_to(tmp_path / "none")
    with pytest.raises(ValueError, match="'owl' is a link to what does not exist"):
        load(tmp_path)
    (tmp_path / "owl").unlink()
    (tmp_path / "cat" / "again").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="cat/again' is a link to a folder that it is in"):
        load(tmp_path)


def test_what_is_not_used_is_named(tmp_path: Path) -> None:
    files = "cat/1.png cat/a.txt cat/b.txt cat/._1.png dog/1.png dog/2.heic notes/a.txt 1.png a.zip .git/x"
    assert load(draw(tmp_path / "classes", *files.split())).left_out == [
        *(
            "notes (no images)",
            "images in no class folder (1)",
            "a.zip",
            "._* files (1)",
            ".heic files (1)",
            ".txt files (2)",
        )
    ]
    files = "train/a/1.png train/a/2.png train/b/1.png train/c/x test/1.png annotations/1.xml"
    splits = load(draw(tmp_path / "splits", *files.split()))
    assert splits.held_out
    assert splits.left_out == ["test (images without class folders)", "annotations (no images)", "c (no images)"]


def test_folders_named_by_option(tmp_path: Path) -> None:
    """Whatever they are called, and whatever stands beside them."""
    draw(tmp_path, *(f"[a]/{split}/{one}/1.png" for split in ("train", "x") for one in ("test", "train", "valid")))
    root = tmp_path / "[a]"
    splits = load_splits(TrainConfig(train_dir=str(root / "train"), val_dir=str(root / "x")))
    assert (splits.split, splits.held_out, splits.names) == ("x", False, ["test", "train", "valid"])
    assert (read(splits, "train"), read(splits, "test")) == (torchvision(root / "train"), torchvision(root / "x"))
    whole = load_splits(TrainConfig(train_dir=str(root), val_fraction=0.5))
    assert read(whole, "train", "test") == torchvision(root)
    with pytest.raises(
        ValueError, match=r"train_dir must be a folder of class folders, got .*none', which is no folder"
    ):
        load_splits(TrainConfig(train_dir=str(root / "none")))
    with pytest.raises(ValueError, match="val_dir must be a folder of class folders with images"):
        load_splits(TrainConfig(train_dir=str(root), val_dir=str(root / "x" / "test")))
    for options in (dict(data="a", train_dir="b"), dict(data="a", val_dir="b", val_split="c"), {}):
        with pytest.raises(
            ValueError, match=r"train_dir takes the place of data|val_dir takes|pass --data or --train-dir"
        ):
            TrainConfig(**options).check()


def test_evaluation_folder_for_a_table(tmp_path: Path) -> None:
    draw(tmp_path / "val", "b/1.png", "a/1.png", "a/2.png")
    kind = datasets.Features(img=datasets.Image(), fine_label=datasets.ClassLabel(names=["b", "c", "a"]))
    rows = datasets.Dataset.from_dict({"img": [Image.new("RGB", (2, 2))] * 3, "fine_label": [0, 1, 2]}, features=kind)
    rows.save_to_disk(tmp_path / "saved")
    splits = load_splits(TrainConfig(data=str(tmp_path / "saved"), val_dir=str(tmp_path / "val")))
    assert splits.names == ["b", "c", "a"]
    assert list(splits.test["fine_label"]) == [2, 2, 0]


def test_class_folders_stream(tmp_path: Path) -> None:
    draw(tmp_path, *(f"{split}/{one}/1.png" for split in ("train", "val") for one in "ab"))
    splits = load(tmp_path, streaming=True)
    assert sorted(row["label"] for row in splits.train) == [0, 1]


NAMES = "train Train training test testing val valid VALID validation dev eval holdout cat dog invalid train-2 1 data"
FILES = "train.png test-1.PNG valid.jpg dev.JPEG x.bmp cat-test-x.jpg metadata.txt .hidden.png 0.webp data.txt"


def scatter(root: Path, random: random.Random) -> None:
    """Class folders, some nested, linked, hidden or empty, in splits or not."""
    names, files = NAMES.split(), FILES.split()
    tops = random.sample(names, random.randint(1, 4))
    shared = random.sample(names, 2)
    for top in tops:
        kind = random.random()
        folders = (
            [top] if kind < 0.5 else [f"{top}/{one}" for one in (shared if kind < 0.9 else random.sample(names, 2))]
        )
        if random.random() < 0.1:
            folders.append(f"{top}/.hidden" if random.random() < 0.5 else f".{top}")
        for folder in folders:
            few = files if random.random() < 0.1 else [name for name in files if not name.startswith(".")]
            draw(root, *(f"{folder}/{name}" for name in random.sample(few, random.randint(1, 3))))
    if random.random() < 0.3:
        draw(root.with_name(f"{root.name}-linked"), f"{random.choice(names)}/1.png", "train.png")
        (root / random.choice([one for one in names if not (root / one).exists()])).symlink_to(
            root.with_name(f"{root.name}-linked")
        )


def test_layouts_at_random_agree_with_torchvision_or_are_refused(tmp_path: Path) -> None:
    seen = {"classes": 0, "splits": 0, "refused": 0}
    for seed in range(400):
        root = tmp_path / str(seed)
        root.mkdir()
        scatter(root, random.Random(seed))
        try:
            folders, _ = split_folders(root)
            found = {split: read_class_folder(folder, "data") for split, folder in folders.items()}
        except ValueError:
            seen["refused"] += 1
            continue
        seen["classes" if folders == {"train": root} else "splits"] += bool(folders)
        for split, rows in found.items():
            reference = ImageFolder(str(folders[split]), allow_empty=True)
            classes = [name for name in reference.classes if name in rows.labels]
            assert sorted(set(rows.labels)) == classes, seed
            expected = [(path, reference.classes[label]) for path, label in reference.samples]
            assert list(zip(rows.paths, rows.labels, strict=True)) == expected, seed
            assert len(reference.classes) == len(classes) + sum("(no images)" in words for words in rows.left_out)
        if folders and folders != {"train": root}:
            assert folders.keys() <= {one.name for one in root.iterdir()}
    assert min(seen.values()) > 20, seen


def test_names_of_splits() -> None:
    assert find_split("train", ["Training", "test"]) == "Training"
    assert find_split("validation", ["train", "val", "test"]) == "val"
    assert find_split("train", ["test"]) is None
    assert find_split("photos", ["test"]) is None
    assert evaluation_split(["train", "test_hard", "test"]) == "test"
    assert evaluation_split(["train", "unlabelled", "contest"]) is None
    with pytest.raises(ValueError, match="the train split may be any of Train, TRAIN"):
        find_split("train", ["Train", "TRAIN"])
