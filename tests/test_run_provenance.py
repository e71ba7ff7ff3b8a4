"""What a run says of itself, from its options and its files."""

import json
from pathlib import Path

import pytest
import timm
from launcher import ROOT

from alignmix_timm.building import build_model
from alignmix_timm.config import TrainConfig
from alignmix_timm.provenance import Base, Provenance
from alignmix_timm.publish import save_for_timm
from alignmix_timm.run_provenance import of_run

EMBEDDED = str(ROOT / "recipes" / "data" / "fashion_mnist")
RESULTS = {"rows": 40.0, "top1": 80.0, "ema_rows": 40.0, "ema_top1": 90.0}
DATA = {"input_size": (3, 64, 64), "mean": (0.5,) * 3, "std": (0.5,) * 3, "crop_pct": 1.0}


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def told(folder: Path, **options: object) -> Provenance:
    options = {"data": EMBEDDED, "batch_size": 10, "output": str(folder), **options}
    return of_run(folder, TrainConfig(**options), RESULTS, updates=6, rows=60, split="test", mixing="at layer3")


def test_results_are_those_of_the_weights_that_are_published(tmp_path: Path) -> None:
    assert told(tmp_path, model_ema=True).results == {"top1": 90.0}
    assert told(tmp_path).results["top1"] == 80.0


def test_time_is_that_of_the_updates_however_often_the_run_was_resumed(tmp_path: Path) -> None:
    lines = [
        {"kind": "train", "step": 2, "images_per_second": 5.0, "time": 0},
        {"kind": "eval", "step": 2, "top1": 1.0, "time": 1},
        {"kind": "train", "step": 6, "images_per_second": 2.0, "time": 9e9},  # resumed a long time later
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert told(tmp_path).seconds == 2 * 10 / 5 + 4 * 10 / 2


def test_nothing_says_where_files_of_this_machine_are(tmp_path: Path) -> None:
    save_for_timm(timm.create_model("test_resnet", num_classes=1), tmp_path / "start", ["a"], DATA)
    run = told(tmp_path, initial_checkpoint=str(tmp_path / "start"), data=str(tmp_path / "gone"), lr=0.3)
    assert str(tmp_path) not in json.dumps(run.to_dict())
    assert run.base == Base("start")
    assert run.dataset.name == "gone"
    assert not run.dataset.on_hub
    assert run.options == {"batch_size": 10, "lr": 0.3}
    assert run.license == "unknown"
    assert Provenance.from_dict(json.loads(json.dumps(run.to_dict()))) == run


def test_base_weights_are_named_with_their_licence(tmp_path: Path) -> None:
    assert told(tmp_path).base is None
    assert told(tmp_path).license == "apache-2.0"
    tagged = told(tmp_path, model="vit_base_patch16_224.mae", pretrained=True)
    assert (tagged.base, tagged.license) == (
        Base("timm/vit_base_patch16_224.mae", True, "cc-by-nc-4.0"),
        "cc-by-nc-4.0",
    )
    hub = told(tmp_path, initial_checkpoint="hf-hub:nobody/nothing@v1")
    assert hub.base == Base("nobody/nothing", True, None)


def test_a_run_without_aligned_mixing_is_not_called_alignmix(tmp_path: Path) -> None:
    assert told(tmp_path).mixing == "at layer3"
    for options in ({"aligned": False}, {"mixers": ["cutmix"]}, {"mix_prob": 0.0}):
        assert told(tmp_path, **options).mixing is None


def test_a_model_other_than_that_of_the_initial_checkpoint_is_refused(tmp_path: Path) -> None:
    save_for_timm(timm.create_model("test_resnet", num_classes=1), tmp_path / "start", ["a"], DATA)
    options = {"model": "test_resnet", "initial_checkpoint": str(tmp_path / "start")}
    assert build_model(TrainConfig(**options), 4).num_classes == 4
    with pytest.raises(ValueError, match="model must be that of initial_checkpoint, 'test_resnet', got 'test_vit'"):
        build_model(TrainConfig(**options | {"model": "test_vit"}), 4)
