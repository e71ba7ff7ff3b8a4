"""The classes of a run: told at its start, kept with its checkpoints, and what it goes on and is evaluated with."""

import contextlib
import io
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from test_folders import draw
from training import records

from alignmix_timm.training.config import TrainConfig
from alignmix_timm.training.data.classes import saved_classes
from alignmix_timm.training.main import run

OPTIONS: dict[str, Any] = dict(
    model="test_resnet", img_size=32, batch_size=16, epochs=1, workers=0, mixers=["none"], val_fraction=0.25
)
FILES = [f"{name}/{number}.png" for name in ("cat", "dog", "owl") for number in range(16)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """The folder of the images, that of the run, and what it printed."""
    folder = tmp_path_factory.mktemp("classes")
    draw(folder / "data", *FILES, "notes/a.txt")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        run(TrainConfig(**OPTIONS, data=str(folder / "data"), output=str(folder / "run")))
    return folder / "data", folder / "run", " ".join(printed.getvalue().split())


def evaluate(trained: tuple[Path, Path, str], **options: Any) -> dict[str, float]:
    data, folder, _ = trained
    return run(
        TrainConfig(**OPTIONS | dict(data=str(data), output=str(folder), eval_only=str(folder / "last")) | options)
    )


def test_the_first_lines_say_what_was_found(trained: tuple[Path, Path, str]) -> None:
    data, _, printed = trained
    assert (
        f"test_resnet, 3 classes (cat, dog, owl): 36 training images of {data}, 12 for evaluation (held-out rows of "
        "the split train). Labels: label; splits: train. Not used: notes (no images). Steps 0 to 2" in printed
    )


def test_own_data_are_measured_on_the_held_out_rows(trained: tuple[Path, Path, str]) -> None:
    own, result = records(trained[1], "eval")[-1], evaluate(trained)
    assert own["rows"] == 12
    assert result == pytest.approx({name: own[name] for name in result})


@pytest.mark.parametrize(
    ("names", "options", "rows"),
    [
        ("cat/1.png dog/1.png owl/1.png", "data", 3),
        ("cat/1.png owl/1.png owl/2.png", "data", 3),
        ("train/cat/1.png train/owl/1.png", "data", 2),
        ("val/cat/1.png val/owl/1.png", "data", 2),
        ("train/cat/1.png train/owl/1.png val/dog/1.png val/dog/2.png val/cat/1.png", "data", 3),
        ("owl/1.png", "val_dir", 1),
    ],
)
def test_other_data_without_splits_are_measured_whole(
    trained: tuple[Path, Path, str],
    names: str,
    options: str,
    rows: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    draw(tmp_path / "other", *names.split())
    result = evaluate(trained, **{options: str(tmp_path / "other")})
    assert result["rows"] == rows
    printed = " ".join(capsys.readouterr().out.split())
    assert re.search(rf"3 classes \(cat, dog, owl\), on {tmp_path}/other: {rows} for evaluation \(the split", printed)


def test_other_classes_are_refused(trained: tuple[Path, Path, str], tmp_path: Path) -> None:
    draw(tmp_path / "more", "cat/1.png", "dog/1.png", "wolf/1.png", "owl/1.png")
    with pytest.raises(ValueError, match="the 3 classes that the checkpoint was trained with, got 4, with wolf"):
        evaluate(trained, data=str(tmp_path / "more"))


@pytest.mark.parametrize(("old", "new"), [("cat", "zebra"), ("owl", "eagle"), ("dog", "wolf")])
def test_a_run_does_not_go_on_after_a_class_was_renamed(
    trained: tuple[Path, Path, str], old: str, new: str, tmp_path: Path
) -> None:
    data, folder, _ = trained
    shutil.copytree(data, tmp_path / "data")
    shutil.copytree(folder, tmp_path / "run", symlinks=True)
    (tmp_path / "data" / old).rename(tmp_path / "data" / new)
    options = OPTIONS | dict(data=str(tmp_path / "data"), output=str(tmp_path / "run"), epochs=2)
    for how in (dict(resume="auto"), dict(eval_only=str(tmp_path / "run"))):
        with pytest.raises(ValueError, match=r"in their order: class \d was '.*', got '.*'; \d of 3 differ"):
            run(TrainConfig(**options | how))
    (tmp_path / "run" / "last" / "classes.json").unlink()  # as checkpoints of older versions
    assert saved_classes(tmp_path / "run" / "last") is None
    assert run(TrainConfig(**options, eval_only=str(tmp_path / "run")))["rows"] == 48
