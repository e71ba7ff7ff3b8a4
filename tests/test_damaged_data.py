"""Rows, shards and archives that cannot be read: what a run reports of them, and how it ends."""

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image
from training import command, finish, records

from alignmix_timm.training.config import TrainConfig
from alignmix_timm.training.data.splits import load_splits
from alignmix_timm.training.main import run

BROKEN = ("train/a/3.png", "test/b/1.png", "test/b/2.png")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders with 40 images in ``train`` and 16 in ``test``; those in BROKEN are no images."""
    folder = tmp_path_factory.mktemp("data")
    for split, count in (("train", 20), ("test", 8)):
        for name in "ab":
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (32, 32), (number * 9, 0, 0)).save(folder / split / name / f"{number}.png")
    for path in BROKEN:
        (folder / path).write_bytes(b"no image")
    return folder


def config(data: Path, output: Path, **options: Any) -> TrainConfig:
    own: dict[str, Any] = dict(model="test_resnet", img_size=32, batch_size=20, epochs=2, workers=0, log_every=1)
    return TrainConfig(data=str(data), output=str(output), skip_corrupt=True, mixers=["none"], **own | options)


def test_broken_files_are_reported_by_split_also_after_a_resume(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(config(data, tmp_path, keep_checkpoints=5))
    train, test = [str(data / path) for path in BROKEN[:1]], [str(data / path) for path in BROKEN[1:]]
    lines = records(tmp_path, "train")
    assert lines[1]["corrupt_rows"] == lines[2]["corrupt_rows"] == lines[3]["corrupt_rows"] == train
    evaluations = records(tmp_path, "eval")
    assert [line["corrupt_rows"] for line in evaluations] == [test, test]
    assert [line["rows"] for line in evaluations] == [14, 14]
    assert "2 broken images are left out of the evaluation." in capsys.readouterr().out

    shutil.rmtree(tmp_path / "checkpoints" / "step-00000004")  # as if killed in the second epoch
    run(config(data, tmp_path, keep_checkpoints=5, resume="auto"))
    assert records(tmp_path, "train") == lines  # its first line tells of what was found before
    capsys.readouterr()
    run(config(data, tmp_path, eval_only=str(tmp_path)))
    assert f'"corrupt_rows": ["{test[0]}", "{test[1]}"]' in capsys.readouterr().out


@pytest.mark.slow
def test_broken_files_of_every_process_are_reported(data: Path, tmp_path: Path) -> None:
    finish([*command(data, tmp_path, 2, batch_size=20), "--skip-corrupt"])
    assert records(tmp_path, "train")[-1]["corrupt_rows"] == [str(data / BROKEN[0])]
    assert records(tmp_path, "eval")[-1]["corrupt_rows"] == [str(data / path) for path in BROKEN[1:]]


def write_parquet(folder: Path) -> Path:
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["a", "b"]))
    rows = {"image": [Image.new("RGB", (9, 9), (row, 0, 0)) for row in range(20)], "label": [0, 1] * 10}
    for shard in range(2):
        datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / f"train-{shard:05d}-of-00002.parquet")
    return folder / "train-00001-of-00002.parquet"


def write_arrow(folder: Path) -> Path:
    rows = {"image": [{"bytes": b"1", "path": None}], "label": [0]}
    datasets.Dataset.from_dict(rows).save_to_disk(folder)
    return folder / "data-00000-of-00001.arrow"


def write_zip(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        archive.writestr("a/0.png", b"0" * 1000)
    return folder / "images.zip"


@pytest.mark.parametrize(
    ("write", "damage", "reason"),
    [
        (write_parquet, lambda data: data[:500], "Parquet magic bytes not found in footer"),
        (write_parquet, lambda data: b"", "Parquet file size is 0 bytes"),
        (write_parquet, lambda data: b"version https://git-lfs.github.com/spec/v1", "Parquet magic bytes not found"),
        (write_arrow, lambda data: data[:200], "Expected to read"),
        (write_zip, lambda data: data[:600], "File is not a zip file"),
    ],
    ids=["cut short", "empty", "LFS pointer", "Arrow", "zip"],
)
def test_a_damaged_file_is_named_with_the_reason(
    write: Callable[[Path], Path], damage: Callable[[bytes], bytes], reason: str, tmp_path: Path
) -> None:
    file = write(tmp_path)
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match=rf"cannot load .*{file} is damaged or incomplete: .*{reason}"):
        load_splits(TrainConfig(data=str(tmp_path)))


def test_another_reason_is_told_as_it_is(tmp_path: Path) -> None:
    shard = write_parquet(tmp_path)
    datasets.Dataset.from_dict({"img": [1]}).to_parquet(shard)
    with pytest.raises(ValueError, match=r"cannot load split 'train' of '[^']*': .*column names don't match") as told:
        load_splits(TrainConfig(data=str(tmp_path)))
    assert len(str(told.value)) < 800
