"""Files that somebody else put where results go: none is deleted or overwritten."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm

from alignmix_timm.publishing.save import load_for_timm, save_for_timm
from alignmix_timm.training.config import TrainConfig
from alignmix_timm.training.main import run
from alignmix_timm.training.run_folder import check_ours, locked

DATA = {"input_size": (3, 64, 64), "mean": (0.5,) * 3, "std": (0.5,) * 3, "crop_pct": 1.0}


def save(folder: Path, classes: int = 2) -> None:
    net = timm.create_model("test_resnet", num_classes=classes)
    save_for_timm(net, folder, [str(label) for label in range(classes)], DATA)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def put(*names: str, text: str = "mine") -> Callable[[Path], None]:
    """Somebody's files in a folder."""

    def write(folder: Path) -> None:
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)

    return write


@pytest.mark.parametrize(
    "theirs",
    [
        put("net.py"),
        put("config.json", "model.safetensors"),  # another library's model
        put("provenance.json", "config.json"),
        put("model.safetensors"),
        put(".git/HEAD"),
    ],
)
@pytest.mark.parametrize("linked", [False, True])
def test_a_model_is_not_saved_over_other_files(theirs: Callable[[Path], None], linked: bool, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    theirs(tmp_path / "elsewhere" if linked else folder)
    if linked:
        folder.symlink_to("elsewhere")
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=r"would be replaced as a whole, and holds '.*', which was not saved for timm"):
        save(folder)
    assert contents(tmp_path) == before
    assert folder.is_symlink() == linked


def test_a_file_in_place_of_a_folder_stays(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("mine")
    with pytest.raises(ValueError, match="model must be a folder, and is a file"):
        save(tmp_path / "model")
    assert contents(tmp_path) == {"model": b"mine"}


def test_a_model_of_ours_is_replaced_unless_something_was_added(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()  # an empty one
    save(folder)
    save(folder, 3)
    (tmp_path / "link").symlink_to("model")
    save(tmp_path / "link", 4)
    assert load_for_timm(folder).num_classes == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "model"]
    put("notes.txt")(folder)
    with pytest.raises(ValueError, match=r"holds 'notes.txt'"):
        save(folder)
    assert load_for_timm(folder).num_classes == 4


def test_a_model_is_there_again_after_a_kill_between_two_renames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "model", 3)
    (tmp_path / "model").rename(tmp_path / ".model.old")
    monkeypatch.setattr("alignmix_timm.publishing.save.save_file", full_disk)
    with pytest.raises(OSError, match=r"No space left on device\. What was there is intact"):
        save(tmp_path / "model", 2)
    assert load_for_timm(tmp_path / "model").num_classes == 3
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def full_disk(*args: Any, **options: Any) -> None:
    raise OSError("No space left on device")


@pytest.mark.parametrize(
    "theirs",
    [
        put("model/net.py"),
        put("config.yaml"),
        put("push/notes.txt"),
        put("checkpoints/step-of-mine"),
        put("lock", text="front door"),
        put("best"),
        put("metrics.jsonl", "train.py"),
    ],
)
def test_a_run_does_not_begin_among_other_files(theirs: Callable[[Path], None], tmp_path: Path) -> None:
    theirs(tmp_path / "project")
    before = contents(tmp_path)
    config = TrainConfig(model="test_resnet", data=str(tmp_path / "none"), output=str(tmp_path / "project"))
    with pytest.raises(ValueError, match=r"output must be a new folder or that of a run|would be replaced as a whole"):
        run(config)
    assert contents(tmp_path) == before


def test_files_that_a_run_does_not_touch_may_be_there(tmp_path: Path) -> None:
    put("train.py", "models/net.py", "notes/config.yaml")(tmp_path)
    with locked(tmp_path):
        put("config.yaml", "metrics.jsonl")(tmp_path)
    with locked(tmp_path):  # it goes on
        put("model/net.py")(tmp_path)
    with pytest.raises(ValueError, match=r"model would be replaced as a whole, and holds 'net\.py'"), locked(tmp_path):
        pass


def test_a_run_without_its_lock_is_known_by_its_checkpoints(tmp_path: Path) -> None:
    put("config.yaml", "checkpoints/step-00000001/progress.json")(tmp_path)
    check_ours(tmp_path)


def test_a_dry_run_leaves_an_existing_folder_alone(tmp_path: Path) -> None:
    for name in ("run", "run-dry-run"):
        put("model/net.py", "config.yaml", "lock")(tmp_path / name)
    before = contents(tmp_path)
    run(TrainConfig(dry_run=True, model="test_resnet", output=str(tmp_path / "run"), workers=0))
    assert contents(tmp_path) == before
    with pytest.raises(ValueError, match="output must be a folder that can be written"):
        run(TrainConfig(dry_run=True, model="test_resnet", output=str(tmp_path / "run" / "lock" / "x"), workers=0))
    assert contents(tmp_path) == before
