"""Which columns hold images and labels, and which classes labels of any kind mean; or what to say instead."""

import os
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
import pytest
from PIL import Image
from test_folders import draw

from alignmix_timm.training.config import TrainConfig
from alignmix_timm.training.data.labels import find_image, find_label
from alignmix_timm.training.data.splits import Splits, load_splits

AB, CD = datasets.ClassLabel(names=["a", "b"]), datasets.ClassLabel(names=["c", "d"])
INTEGER, STRING, IMAGE = datasets.Value("int64"), datasets.Value("string"), datasets.Image()


@pytest.mark.parametrize(
    ("columns", "found", "others"),
    [
        (dict(source=AB, label=INTEGER), "label", ["source"]),
        (dict(source=AB, labels=INTEGER, id=INTEGER), "labels", ["source"]),
        (dict(split=AB, Label=STRING), "Label", ["split"]),
        (dict(coarse_label=CD, fine_label=AB), "fine_label", ["coarse_label"]),
        (dict(coarse_label=CD, label=AB), "label", ["coarse_label"]),
        (dict(coarse_label=INTEGER, fine_label=INTEGER), "fine_label", ["coarse_label"]),
        (dict(label=STRING, fine_label=AB), "fine_label", ["label"]),
        (dict(label=datasets.Sequence(INTEGER), labels=AB), "labels", ["label"]),
        (dict(species=AB, id=INTEGER), "species", []),
        (dict(category=INTEGER, width=INTEGER), "category", []),
    ],
)
def test_the_label_column(columns: dict[str, Any], found: str, others: list[str]) -> None:
    assert find_label(datasets.Features(image=IMAGE, **columns), None) == (found, others)


@pytest.mark.parametrize(
    "columns", [dict(source=AB, species=CD), dict(source=AB, target=INTEGER), dict(class_name=STRING, class_id=INTEGER)]
)
def test_several_label_columns_are_refused(columns: dict[str, Any]) -> None:
    one, two = columns
    features = datasets.Features(image=IMAGE, **columns)
    with pytest.raises(ValueError, match=f"label_column may be any of {one}, {two}: pass --label-column with one"):
        find_label(features, None)
    assert find_label(features, two).name == two


def test_the_image_column() -> None:
    assert find_image(datasets.Features(mask=IMAGE, image=IMAGE, label=AB), None) == ("image", ["mask"])
    assert find_image(datasets.Features(image=STRING, img=IMAGE, label=AB), None).name == "img"
    assert find_image(datasets.Features(picture=IMAGE, label=AB), None).name == "picture"
    with pytest.raises(ValueError, match="image_column may be any of front, back: pass --image-column"):
        find_image(datasets.Features(front=IMAGE, back=IMAGE, label=AB), None)


def table(values: list, kind: Any, name: str = "label") -> datasets.Dataset:
    features = datasets.Features({"image": IMAGE, name: kind})
    pictures = [Image.new("RGB", (2, 2))] * len(values)
    return datasets.Dataset.from_dict({"image": pictures, name: values}, features=features)


def load(folder: Path, train: datasets.Dataset, test: datasets.Dataset, **options: Any) -> Splits:
    datasets.DatasetDict(train=train, test=test).save_to_disk(folder)
    return load_splits(TrainConfig(data=str(folder), **options))


@pytest.mark.parametrize(
    ("kind", "train", "test", "names"),
    [
        ("int64", [907, 0, 5], [5], ["0", "5", "907"]),
        ("int64", [3 * 10**9, 7, 7], [7], ["7", "3000000000"]),
        ("uint64", [2**62 + 1, 1, 1], [2**62], ["1", str(2**62), str(2**62 + 1)]),
        ("int32", [1, 2, 3], [3], ["1", "2", "3"]),
        ("uint8", [0, 1, 2], [1], ["0", "1", "2"]),
        ("large_string", ["z", "x", "x"], ["z"], ["x", "z"]),
    ],
)
def test_distinct_values_are_the_classes(kind: str, train: list, test: list, names: list, tmp_path: Path) -> None:
    splits = load(tmp_path, *(table(values, datasets.Value(kind)) for values in (train, test)))
    assert splits.names == names
    assert [splits.names[row["label"]] for row in splits.train] == [str(value) for value in train]
    assert [splits.names[row["label"]] for row in splits.test] == [str(value) for value in test]


def test_classes_do_not_depend_on_the_rows_that_are_drawn(tmp_path: Path) -> None:
    rows = table([40, 10, 30, 20], INTEGER)
    assert load(tmp_path, rows, rows, max_train_samples=1, max_eval_samples=1).names == ["10", "20", "30", "40"]


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (datasets.Sequence(INTEGER), [[0, 1], [1]], "'label' is (List|Sequence|lists).* Pass --label-column"),
        (datasets.Sequence(AB), [[0, 1], [1]], "'label' is (List|Sequence|lists)"),
        ([INTEGER], [[0], [1]], "'label' is (List|Sequence|lists)"),
        ({"id": INTEGER}, [{"id": 0}, {"id": 1}], "label_column must hold one class of each image"),
        (INTEGER, list(range(10**5, 10**5 + 300)), "'label' has 300 different values in 300 rows"),
        (STRING, [f"a photo of {number}" for number in range(150)], "seems not to hold classes"),
        (INTEGER, [0, -1], r"'label' must be a class in every row, got \[-1\]"),
        (STRING, ["a", None], r"'label' must be a class in every row, got \[None\]"),
    ],
)
def test_labels_that_are_no_classes(kind: Any, values: list, message: str, tmp_path: Path) -> None:
    rows = table(values, kind)
    with pytest.raises(ValueError, match=message):
        load(tmp_path, rows, rows)


def test_many_classes_where_they_are_asked_for(tmp_path: Path) -> None:
    rows = table(list(range(300)), INTEGER)
    assert len(load(tmp_path, rows, rows, label_column="label").names) == 300
    assert len(load_splits(TrainConfig(data=str(tmp_path), num_classes=1000)).names) == 1000


@pytest.mark.parametrize("names", [["b", "a"], ["a", "b", "c"], ["a", "x"]])
def test_parquet_files_with_other_classes_are_refused(names: list[str], tmp_path: Path) -> None:
    table([0, 1], AB).to_parquet(tmp_path / "train-00000-of-00001.parquet")
    table([0, 1], datasets.ClassLabel(names=names)).to_parquet(tmp_path / "test-00000-of-00001.parquet")
    with pytest.raises(ValueError, match=r"the classes of 'label' in test-.* and train-.* differ"):
        load_splits(TrainConfig(data=str(tmp_path)))
    os.rename(tmp_path / "test-00000-of-00001.parquet", tmp_path / "train-00001-of-00002.parquet")
    with pytest.raises(ValueError, match=r"the classes of 'label' in train-00001.* differ"):
        load_splits(TrainConfig(data=str(tmp_path), val_fraction=0.5))


def test_parquet_files_in_no_split_are_named(tmp_path: Path) -> None:
    for name in ("train", "test", "holdout"):
        table([0, 1], AB).to_parquet(tmp_path / f"{name}.parquet")
    assert load_splits(TrainConfig(data=str(tmp_path))).left_out == ["holdout.parquet"]


@pytest.mark.parametrize("names", ["Train Test", "train validate", "data/TRAIN data/VALID", "a holdout"])
def test_parquet_files_in_another_split_than_their_name_says(names: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name in names.split():
        table([0, 1], AB).to_parquet(tmp_path / f"{name}.parquet")
    if names == "train validate":  # named as left out
        assert load_splits(TrainConfig(data=str(tmp_path), val_fraction=0.5)).left_out == ["validate.parquet"]
        return
    with pytest.raises(ValueError, match=r"would be read as rows of the split 'train', and its name means evaluation"):
        load_splits(TrainConfig(data=str(tmp_path)))


def test_a_broken_parquet_file_is_named(tmp_path: Path) -> None:
    table([0, 1], AB).to_parquet(tmp_path / "train.parquet")
    (tmp_path / "test.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match=r"test.parquet is damaged or incomplete: "):
        load_splits(TrainConfig(data=str(tmp_path)))


def test_brackets_in_a_path(tmp_path: Path) -> None:
    table([0, 1], AB).save_to_disk(tmp_path / "a[1]" / "saved")
    table([0, 1], AB).to_parquet(tmp_path / "a[1]" / "train.parquet")
    draw(tmp_path / "b[0-9]*", "cat/1.png", "dog/1.png")
    for folder in ("a[1]/saved", "b[0-9]*"):
        assert len(load_splits(TrainConfig(data=str(tmp_path / folder), val_fraction=0.5)).train) == 1
    with pytest.raises(ValueError, match=r"data must be a path without brackets.* Rename the folder, or link to it"):
        load_splits(TrainConfig(data=str(tmp_path / "a[1]")))


def test_two_classes_of_one_name_are_told_apart(tmp_path: Path) -> None:
    names = ["crane", "tench", "crane"]
    table([0, 2, 1], datasets.ClassLabel(names=["crane", "tench", "other"])).to_parquet(tmp_path / "other.parquet")
    written = pq.read_table(tmp_path / "other.parquet")
    stated = written.schema.metadata[b"huggingface"].replace(b"other", b"crane")  # as older versions let pass
    pq.write_table(written.replace_schema_metadata({b"huggingface": stated}), tmp_path / "train.parquet")
    (tmp_path / "other.parquet").unlink()
    splits = load_splits(TrainConfig(data=str(tmp_path), val_fraction=0.4))
    assert splits.names == ["crane (0)", "tench", "crane (2)"]
    assert sorted(names[label] for part in (splits.train, splits.test) for label in part["label"]) == sorted(names)
