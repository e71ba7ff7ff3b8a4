"""What a run says of itself, from its options and its files."""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
from launcher import ROOT

from alignmix_timm.publishing.card import make_card
from alignmix_timm.publishing.provenance import Base, Provenance
from alignmix_timm.publishing.save import save_for_timm
from alignmix_timm.publishing.verify import check_folder
from alignmix_timm.training.build import build_model, model_args
from alignmix_timm.training.config import TrainConfig
from alignmix_timm.training.provenance import exported_step, of_run

EMBEDDED = str(ROOT / "recipes" / "data" / "fashion_mnist")
RESULTS = {"rows": 40.0, "top1": 80.0, "ema_rows": 40.0, "ema_top1": 90.0}
DATA = {"input_size": (3, 64, 64), "mean": (0.5,) * 3, "std": (0.5,) * 3, "crop_pct": 1.0}


DONE: dict[str, Any] = dict(
    updates=6, step=4, best_by="top1", rows=60, split="test", held_out=False, mixing="at layer3"
)


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def told(folder: Path, **options: object) -> Provenance:
    options = {"data": EMBEDDED, "batch_size": 10, "output": str(folder), **options}
    return of_run(folder, TrainConfig(**options), RESULTS, **DONE)


def test_results_are_those_of_the_weights_that_are_published(tmp_path: Path) -> None:
    assert told(tmp_path, model_ema=True).results == {"top1": 90.0}
    assert told(tmp_path).results["top1"] == 80.0


def test_the_card_says_which_weights_and_on_which_rows(tmp_path: Path) -> None:
    net = timm.create_model("test_resnet", num_classes=1)
    save_for_timm(net, tmp_path / "a", ["a"], DATA, provenance=told(tmp_path))
    card = make_card(tmp_path / "a", "alice/net")
    assert "On 40 images of the split test of Fashion-MNIST" in card.text
    assert "The weights after optimizer step 4 of 6: the best evaluation of the run by top-1 accuracy" in card.text
    config = TrainConfig(data=EMBEDDED, batch_size=10, model_ema=True)
    held = of_run(tmp_path, config, RESULTS, **DONE | dict(best_by="ema_top1", split="train", held_out=True))
    save_for_timm(net, tmp_path / "a", ["a"], DATA, provenance=held)
    card = make_card(tmp_path / "a", "alice/net")
    assert "On 40 images, held-out rows of the split train of Fashion-MNIST" in card.text
    assert "The EMA weights after optimizer step 4 of 6" in card.text
    assert {result.dataset_split for result in card.data.eval_results} == {"held-out rows of train"}
    assert exported_step(tmp_path / "a") == 4
    early = of_run(tmp_path, config, RESULTS, **DONE | dict(best_by=None))
    save_for_timm(net, tmp_path / "a", ["a"], DATA, provenance=early)
    assert "One run, measured after optimizer step 4;" in make_card(tmp_path / "a", "alice/net").text


def test_time_is_that_of_the_steps_however_often_the_run_was_resumed(tmp_path: Path) -> None:
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
    assert told(tmp_path, modes=["input", "feat_swap"], mix_off_epoch=1, align_embedding=False).mixing == "at layer3"
    tensor = {"embedding": "tensor", "align_embedding": True}
    assert told(tmp_path, modes=["embed"], **tensor).mixing == "at layer3"
    for options in (
        *({"assignment": "none"}, {"assignment": "shuffled"}, {"assignment": "uniform", **tensor}),
        *({"mixers": ["cutmix"]}, {"mix_prob": 0.0}, {"mix_off_epoch": 0}, {"micro_batch_size": 1}),
        *({"modes": ["clean"]}, {"modes": ["input"]}, {"modes": ["embed", "input"]}),
        *({"modes": ["input"], **tensor}, {"mix_off_epoch": 0, **tensor}),
    ):
        assert told(tmp_path, **options).mixing is None, options


def test_a_model_from_a_folder_is_saved_but_its_path_is_not_published(tmp_path: Path) -> None:
    data = {**DATA, "license": "mit"}
    save_for_timm(timm.create_model("test_resnet", num_classes=1), tmp_path / "start", ["a"], data)
    model = f"local-dir:{tmp_path / 'start'}"
    for options in ({"pretrained": True}, {"embedding": "flatten", "img_size": 64, "grid": 2}):
        config = TrainConfig(model=model, **options)
        net, run = build_model(config, 1), told(tmp_path, model=model, **options)
        assert run.base == (Base("start", license="mit") if config.pretrained else None)
        assert run.options["model"] == "local-dir:start"
        save_for_timm(net, tmp_path / "model", ["a"], DATA, model_args(config), provenance=run)
        public = make_card(tmp_path / "model", "alice/net").content + (tmp_path / "model/provenance.json").read_text()
        assert str(tmp_path) not in public
    with pytest.raises(ValueError, match=r"is built from a folder of this machine, which nobody else has: model_args "):
        check_folder(tmp_path / "model")
    assert told(tmp_path, model_args={"backbone": model, "more": [1, "/home/me/x"]}).options["model_args"] == {
        "backbone": "local-dir:start",
        "more": [1, "x"],
    }


def test_base_weights_that_timm_does_not_describe_are_named(tmp_path: Path) -> None:
    assert told(tmp_path, model="registered_elsewhere", pretrained=True).base == Base("registered_elsewhere")


def test_a_model_other_than_that_of_the_initial_checkpoint_is_refused(tmp_path: Path) -> None:
    save_for_timm(timm.create_model("test_resnet", num_classes=1), tmp_path / "start", ["a"], DATA)
    options = {"model": "test_resnet", "initial_checkpoint": str(tmp_path / "start")}
    assert build_model(TrainConfig(**options), 4).num_classes == 4
    with pytest.raises(ValueError, match="model must be that of initial_checkpoint, 'test_resnet', got 'test_vit'"):
        build_model(TrainConfig(**options | {"model": "test_vit"}), 4)
