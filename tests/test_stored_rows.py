"""Rows read from the Arrow table, and decoded images that are kept."""

import pickle
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from batch_probe import write_images
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms.functional import to_tensor
from training import records

from alignmix_timm.points.images import read_image
from alignmix_timm.training.config import TrainConfig
from alignmix_timm.training.data import dataset
from alignmix_timm.training.data.cache import ImageCache, decoded_sizes
from alignmix_timm.training.data.dataset import Key, Rows, collate
from alignmix_timm.training.data.stored_rows import StoredRows
from alignmix_timm.training.main import main

COUNT = 23


@pytest.fixture(scope="module")
def whole() -> datasets.Dataset:
    """PNGs of several sizes in two chunks, the row 3 without an image, with a column more."""
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (6 + row % 3, 9, 3), dtype=np.uint8)) for row in range(COUNT)]
    features = datasets.Features(image=datasets.Image(), other=datasets.Value("string"), label=datasets.Value("int64"))
    columns: dict[str, Any] = {"image": [None if row == 3 else one for row, one in enumerate(pictures)]}
    columns |= {"other": [str(row) for row in range(COUNT)], "label": [row * 7 % 5 for row in range(COUNT)]}
    rows = datasets.Dataset.from_dict(columns, features=features)
    parts = [rows.select(range(10)), rows.select(range(10, COUNT))]
    return datasets.concatenate_datasets(parts).cast_column("image", datasets.Image(decode=False))


@pytest.mark.parametrize("chosen", [None, range(5, 17), [20, 3, 3, 0, 11], "shuffled"])
def test_stored_rows_are_those_of_the_dataset(whole: datasets.Dataset, chosen: Any) -> None:
    rows = whole if chosen is None else whole.shuffle(seed=0) if chosen == "shuffled" else whole.select(chosen)
    rows = rows.select_columns(["image", "label"])
    stored = StoredRows(rows, "image", "label")
    missing = {"bytes": None, "path": None}
    expected = [{**row, "image": row["image"] or missing} for row in rows]
    for one in (stored, pickle.loads(pickle.dumps(stored))):
        assert [one[row] for row in range(len(one))] == expected


def test_stored_rows_of_files_name_them(tmp_path: Path) -> None:
    paths = [str(tmp_path / f"{row}.png") for row in range(3)]
    features = datasets.Features(image=datasets.Image(decode=False), label=datasets.Value("int64"))
    rows = datasets.Dataset.from_dict({"image": paths, "label": [2, 1, 0]}, features=features)
    stored = StoredRows(rows, "image", "label")
    assert [stored[row]["image"] for row in range(3)] == [{"bytes": None, "path": path} for path in paths]


def kept(whole: datasets.Dataset, budget: int = 10**6) -> Rows:
    rows = Rows(StoredRows(whole, "image", "label"), "image", "label", to_tensor, "RGB", skip_corrupt=True)
    rows.cache = ImageCache(decoded_sizes(rows.rows, "image", "RGB", 10**6, budget), "RGB")
    return rows


@pytest.mark.parametrize("workers", [0, 2])
def test_kept_images_are_those_of_the_files_and_are_decoded_once_for_all_workers(
    whole: datasets.Dataset, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, plain = kept(whole), Rows(StoredRows(whole, "image", "label"), "image", "label", to_tensor, "RGB")
    chosen = [Key(epoch, row) for epoch in (0, 1) for row in range(COUNT) if row != 3]
    loader = DataLoader(rows, sampler=chosen, num_workers=workers, collate_fn=collate)
    for key, batch in zip(chosen, loader, strict=True):
        assert torch.equal(batch["pixel_values"][0], plain[key]["pixel_values"])
    monkeypatch.setattr("alignmix_timm.training.data.dataset.read_image", None)
    for key, batch in zip(chosen, loader, strict=True):
        assert batch["rows"].item() == key.row


def test_a_row_without_an_image_is_not_kept(whole: datasets.Dataset) -> None:
    rows = kept(whole)
    assert rows[Key(0, 3)]["corrupt"] == [3]
    assert rows.cache is not None
    assert rows.cache.find(3) is None


def test_images_that_are_larger_than_their_file_says_are_not_kept() -> None:
    cache = ImageCache(np.array([3, 6]), "RGB")
    for row, width in ((0, 2), (1, 2)):
        cache.keep(row, Image.new("RGB", (width, 1), (1, 2, 3)))
    assert cache.find(0) is None
    found = cache.find(1)
    assert found is not None
    assert np.asarray(found).tolist() == [[[1, 2, 3]] * 2]


def test_turned_images_are_kept_as_they_stand(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.png"
    Image.fromarray(np.arange(24, dtype=np.uint8).reshape(4, 2, 3)).save(path, exif=exif)
    picture = read_image({"path": str(path)}, "RGB")
    cache = ImageCache(decoded_sizes([{"image": {"path": str(path)}}], "image", "RGB", 100, 24), "RGB")
    cache.keep(0, picture)
    found = cache.find(0)
    assert found is not None
    assert found.size == picture.size == (4, 2)
    assert np.array_equal(np.asarray(found), np.asarray(picture))


def test_a_budget_that_is_too_small_says_what_is_needed(whole: datasets.Dataset) -> None:
    total = sum(3 * 9 * (6 + row % 3) for row in range(COUNT) if row != 3)
    assert decoded_sizes(whole, "image", "RGB", 10**6, total).sum() == total
    with pytest.raises(
        ValueError, match=r"cache_images must be enough MB for the 23 decoded images of a split, about 0"
    ):
        decoded_sizes(whole, "image", "RGB", 10**6, total - 1)


@pytest.mark.slow
def test_a_run_with_kept_images_is_that_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the command: the same metrics and weights to the last bit, of images that are decoded once."""
    for split, count in (("train", 4), ("val", 2)):
        write_images(tmp_path / "data", count, split)
    decoded: list[int] = []

    def counted(*arguments: Any) -> Image.Image:
        decoded[-1] += 1
        return read_image(*arguments)

    monkeypatch.setattr(dataset, "read_image", counted)
    line = f"--data {tmp_path / 'data'} --model test_resnet --img-size 32 --batch-size 8 --epochs 2 --workers 0 "
    found = []
    for name, options in (("each", ""), ("kept", " --cache-images 100")):
        decoded.append(0)
        AcceleratorState._reset_state(reset_partial_state=True)
        main(f"{line} --mixers cutmix --lr 0.05 --log-every 1 --output {tmp_path / name}{options}".split())
        weights = (tmp_path / name / "last" / "model.safetensors").read_bytes()
        found.append((weights, records(tmp_path / name, "train"), records(tmp_path / name, "eval")))
    assert decoded == [2 * 24, 24]
    assert found[0] == found[1]
    assert len(found[0][1]) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(cache_images=5, streaming=True), "cache_images must be 0 where data stream"),
        (dict(cache_images=5, jpeg_scaling=True), "jpeg_scaling must be off with cache_images"),
        (dict(cache_images=-1), "cache_images must be >= 0, got -1"),
        (dict(jpeg_scaling=True, train_crop="pad"), "jpeg_scaling must be off for the crop 'pad'"),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig(data="a", **options).check()
