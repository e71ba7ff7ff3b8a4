"""Datasets of many kinds, their columns and images; and what is refused."""

import io
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image
from torchvision.transforms.functional import to_tensor

from alignmix_timm.points.images import read_image
from alignmix_timm.training.config import TrainConfig
from alignmix_timm.training.data.dataset import Key, Rows, collate
from alignmix_timm.training.data.loaders import MOST_WORKERS, share_of_cores
from alignmix_timm.training.data.splits import load_splits
from alignmix_timm.training.data.transforms import data_config, eval_transform


def pictures(count: int, seed: int = 0) -> list[Image.Image]:
    pixels = np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    return [Image.fromarray(one) for one in pixels]


def table(count: int, kind: Any, image: str = "image", values: list | None = None) -> datasets.Dataset:
    features = datasets.Features({image: datasets.Image(), "label": kind})
    labels = [row % 3 for row in range(count)] if values is None else values
    return datasets.Dataset.from_dict({image: pictures(count), "label": labels}, features=features)


NAMED = datasets.ClassLabel(names=["a", "b", "c"])


def save(folder: Path, **splits: datasets.Dataset) -> str:
    folder.mkdir(exist_ok=True)
    for name, rows in splits.items():
        rows.to_parquet(folder / f"{name}-00000-of-00001.parquet")
    return str(folder)


def test_a_folder_of_class_folders_holds_rows_out(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number, picture in enumerate(pictures(20)):
            picture.save(tmp_path / name / f"{number}.png")
    splits = load_splits(TrainConfig(data=str(tmp_path), val_fraction=0.25))
    assert (splits.split, splits.held_out) == ("train", True)
    assert splits.names == ["cat", "dog"]
    assert (len(splits.train), len(splits.test)) == (30, 10)
    paths = [{row[splits.image]["path"] for row in part} for part in (splits.train, splits.test)]
    assert not paths[0] & paths[1]
    assert set(splits.train["label"]) == set(splits.test["label"]) == {0, 1}


def test_parquet_files_and_saved_datasets(tmp_path: Path) -> None:
    rows = table(12, NAMED, image="picture")
    parquet = load_splits(TrainConfig(data=save(tmp_path / "parquet", train=rows, validation=rows.select(range(5)))))
    datasets.DatasetDict(train=rows, test=rows.select(range(5))).save_to_disk(tmp_path / "saved")
    saved = load_splits(TrainConfig(data=str(tmp_path / "saved"), max_train_samples=7, max_eval_samples=2))
    assert (parquet.image, parquet.label, len(parquet.train), len(parquet.test)) == ("picture", "label", 12, 5)
    assert (len(saved.train), len(saved.test), saved.names) == (7, 2, ["a", "b", "c"])


@pytest.mark.parametrize(
    ("label", "values", "names", "indices"),
    [
        (datasets.Value("string"), ["x", "z", "y", "x"], ["x", "y", "z"], [0, 2, 1, 0]),
        (datasets.Value("int64"), [0, 5, 907, 0], ["0", "5", "907"], [0, 1, 2, 0]),
    ],
)
def test_labels_without_names(tmp_path: Path, label: Any, values: list, names: list[str], indices: list[int]) -> None:
    rows = table(4, label, values=values)
    splits = load_splits(TrainConfig(data=save(tmp_path, train=rows, test=rows)))
    assert (splits.split, splits.held_out) == ("test", False)
    assert splits.names == names
    assert list(splits.train["label"]) == indices


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(image_column="pixels"), r"image_column must be one of the columns \['image', 'label'\], got pixels"),
        (dict(label_column="class"), r"label_column must be one of the columns \['image', 'label'\], got class"),
        (dict(num_classes=4), "num_classes must be that of 'label', which has 3, got 4"),
        (dict(train_split="training"), "cannot load split 'training'"),
        (dict(val_split="dev"), "cannot load split 'dev'"),
        (dict(data="/no/such/folder"), "cannot load split 'train' of '/no/such/folder'"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    rows = table(4, NAMED)
    with pytest.raises(ValueError, match=message):
        load_splits(TrainConfig(**{"data": save(tmp_path, train=rows, test=rows)} | options))


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (
            datasets.Value("float32"),
            [0.0, 1.0, 2.0, 0.0],
            "classes or integers.*'label' is float32",
        ),
        (
            datasets.Value("bool"),
            [True, False, True, False],
            "classes or integers.*'label' is bool",
        ),
        (datasets.Value("int64"), [0, None, 2, 0], r"'label' must be a class in every row, got \[None\]"),
        (datasets.Value("int64"), [0, -1, 2, 0], r"'label' must be a class in every row, got \[-1\]"),
    ],
)
def test_labels_that_are_no_classes_are_named(tmp_path: Path, kind: Any, values: list, message: str) -> None:
    rows = table(4, kind, values=values)
    with pytest.raises(ValueError, match=message):
        load_splits(TrainConfig(data=save(tmp_path, train=rows, test=rows)))


def test_validation_goes_before_a_test_split_with_hidden_labels(tmp_path: Path) -> None:
    rows, hidden = table(6, datasets.Value("int64")), table(6, datasets.Value("int64"), values=[-1] * 6)
    splits = load_splits(TrainConfig(data=save(tmp_path, train=rows, validation=rows.select(range(3)), test=hidden)))
    assert len(splits.test) == 3
    with pytest.raises(ValueError, match="the labels of a test split are often hidden"):
        load_splits(TrainConfig(data=str(tmp_path), val_split="test"))


def test_more_classes_than_there_are_labels(tmp_path: Path) -> None:
    rows = table(6, datasets.Value("int64"))
    assert len(load_splits(TrainConfig(data=save(tmp_path, train=rows, test=rows), num_classes=10)).names) == 10


@pytest.mark.slow
def test_an_unreachable_dataset_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ValueError, match=r"cannot load split 'train' of 'nobody/nothing'.*Pass --data a folder"):
        load_splits(TrainConfig(data="nobody/nothing"))


def encode(picture: Image.Image, kind: str = "PNG", **options: Any) -> dict[str, Any]:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return {"bytes": buffer.getvalue(), "path": None}


def test_images_of_every_mode_become_rgb() -> None:
    colour = Image.new("RGB", (4, 4), (255, 0, 0))
    palette = colour.convert("P")
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    found = [read_image(encode(one), "RGB") for one in (colour, palette, clear, colour.convert("L"))]
    found.append(read_image(encode(colour.convert("CMYK"), "JPEG"), "RGB"))
    found.append(read_image(encode(palette, transparency=0), "RGB"))
    expected = [(255, 0, 0), (255, 0, 0), (255, 0, 0), (76, 76, 76), (255, 0, 0), (255, 0, 0)]
    for picture, colours in zip(found, expected, strict=True):
        assert picture.mode == "RGB"
        assert np.abs(np.array(picture.getpixel((1, 1))) - colours).max() <= 2


@pytest.fixture
def broken() -> list[dict[str, Any]]:
    """Five rows; the second and third cannot be read."""
    rows = [{"image": encode(picture), "label": row} for row, picture in enumerate(pictures(5))]
    rows[1]["image"] = {"bytes": rows[1]["image"]["bytes"][:30], "path": None}
    rows[2]["image"] = None
    return rows


def test_a_broken_image_is_named(broken: list[dict[str, Any]]) -> None:
    rows = Rows(broken, "image", "label", np.asarray, "RGB")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"the image of row 1 cannot be read: .*Pass --skip-corrupt"):
        rows[Key(0, 1)]
    with pytest.raises(ValueError, match="the image of row 2 cannot be read: it is missing"):
        rows[Key(0, 2)]


def test_a_broken_image_is_replaced_in_training_and_left_out_in_evaluation(broken: list[dict[str, Any]]) -> None:
    train = Rows(broken, "image", "label", to_tensor, "RGB", skip_corrupt=True)
    batch = collate([train[Key(0, row)] for row in range(5)])
    assert batch["rows"].tolist() == [0, 3, 3, 3, 4]
    assert batch["corrupt"] == [1, 2, 2]
    test = Rows(broken, "image", "label", to_tensor, "RGB", skip_corrupt=True, replace=False)
    batch = collate([test[Key(0, row)] for row in range(5)])
    assert batch["rows"].tolist() == [0, 3, 4]
    assert collate([test[Key(0, 1)]]) == {"corrupt": [1]}


@pytest.mark.parametrize(("mode", "edges"), [(None, [0, 0]), ("squash", [255, 255])])
def test_evaluation_crops_the_image_or_takes_all_of_it(mode: str | None, edges: list[int]) -> None:
    pixels = np.zeros((64, 192, 3), np.uint8)
    pixels[:, :32] = pixels[:, -32:] = 255  # white at the left and at the right
    config = TrainConfig(img_size=64, crop_pct=1.0, crop_mode=mode, mean=[0.0] * 3, std=[1.0] * 3)
    own = {"input_size": (3, 224, 224), "interpolation": "bilinear", "crop_pct": 0.9, "mean": [0.5], "std": [0.5]}
    data = data_config(SimpleNamespace(pretrained_cfg=own), config)
    shown = eval_transform(data)(Image.fromarray(pixels)) * 255
    assert shown.shape == (3, 64, 64)
    assert shown[0, 32, [0, -1]].tolist() == edges


def test_workers_are_the_share_of_the_cores_that_a_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    usable = os.sched_getaffinity(0)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert share_of_cores(1) == min(len(usable), MOST_WORKERS)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")  # of 16 processes on eight machines
    assert share_of_cores(16) == max(min(len(usable) // 2, MOST_WORKERS), 1)
    os.sched_setaffinity(0, {min(usable)})
    try:
        assert share_of_cores(16) == 1
    finally:
        os.sched_setaffinity(0, usable)
