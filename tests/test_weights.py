"""The weights that a model begins with, of another number of classes than it has."""

import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from launcher import ROOT
from safetensors.torch import load_file, save_file
from timm.utils import ModelEmaV3

from alignmix_timm.publishing.save import save_for_timm
from alignmix_timm.training.build import build_model, model_args
from alignmix_timm.training.config import TrainConfig

RELEASED = ROOT.parent / "shared" / "weights" / "tf_efficientnet_lite0.safetensors"
HEADS = {"test_resnet": "fc", "test_vit": "head", "test_efficientnet": "classifier", "test_convnext": "head.fc"}


def begun(path: Path, classes: int, model: str = "test_resnet", **options: Any) -> Any:
    return build_model(TrainConfig(model=model, initial_checkpoint=str(path), **options), classes)


def check(net: Any, weights: dict[str, torch.Tensor], head: str, replaced: bool) -> None:
    """All weights are those of the file, except for the classifier where it was replaced."""
    found = net.state_dict()
    assert found.keys() == weights.keys()
    for name, value in found.items():
        alike = value.shape == weights[name].shape and torch.equal(value, weights[name])
        assert alike == (not replaced or not name.startswith(f"{head}.")), name


@pytest.mark.parametrize("model", HEADS)
@pytest.mark.parametrize("form", ["safetensors", "pth", "averaged"])
def test_a_file_of_weights_of_any_number_of_classes(model: str, form: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    weights = timm.create_model(model, num_classes=7).state_dict()
    path = tmp_path / f"weights.{'safetensors' if form == 'safetensors' else 'pth'}"
    if form == "safetensors":
        save_file(weights, path)
    elif form == "pth":
        torch.save(weights, path)
    else:
        other = {name: torch.zeros_like(value) for name, value in weights.items()}
        torch.save({"state_dict": other, "state_dict_ema": weights}, path)
    for classes in (7, 10, 1):
        net = begun(path, classes, model)
        assert net.num_classes == classes
        check(net, weights, HEADS[model], replaced=classes != 7)
    save_for_timm(net, tmp_path / "model", ["a"], {"input_size": (3, 64, 64), "mean": (0.5,) * 3, "std": (0.5,) * 3})
    assert str(tmp_path) not in (tmp_path / "model" / "config.json").read_text()


def test_a_folder_and_a_file_begin_alike(tmp_path: Path) -> None:
    data = {"input_size": (3, 64, 64), "mean": (0.5,) * 3, "std": (0.5,) * 3}
    save_for_timm(timm.create_model("test_resnet", num_classes=3), tmp_path / "model", ["a", "b", "c"], data)
    weights = load_file(tmp_path / "model" / "model.safetensors")
    for path in (tmp_path / "model", tmp_path / "model" / "model.safetensors"):
        check(begun(path, 10), weights, "fc", replaced=True)
        check(begun(path, 3), weights, "fc", replaced=False)


def test_weights_without_a_classifier_and_for_grey_images(tmp_path: Path) -> None:
    weights = timm.create_model("test_resnet", num_classes=0).state_dict()
    save_file(weights, tmp_path / "backbone.safetensors")
    found = begun(tmp_path / "backbone.safetensors", 4).state_dict()
    assert found.keys() - weights.keys() == {"fc.weight", "fc.bias"}
    assert all(torch.equal(found[name], value) for name, value in weights.items())
    grey = begun(tmp_path / "backbone.safetensors", 4, in_chans=1).state_dict()
    assert torch.allclose(grey["conv1.0.weight"], weights["conv1.0.weight"].sum(1, keepdim=True))


def test_the_paper_s_encoder_begins_with_another_s(tmp_path: Path) -> None:
    options: dict[str, Any] = dict(embedding="flatten", img_size=64, grid=2, embed_dim=16)
    own = build_model(TrainConfig(model="test_resnet", **options), 5)
    weights = ModelEmaV3(own).module.state_dict()
    save_file(weights, tmp_path / "encoder.safetensors")
    for classes in (5, 9):
        net = begun(tmp_path / "encoder.safetensors", classes, **options)
        check(net, weights, "head", replaced=classes != 5)
    assert model_args(TrainConfig(model="test_resnet", **options))["backbone"] == "test_resnet"


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    save_file(timm.create_model("test_vit", num_classes=3).state_dict(), tmp_path / "vit.safetensors")
    for classes in (3, 10):
        with pytest.raises(ValueError, match=r"model 'test_resnet' cannot be built: Error.*Missing key.*--initial-ch"):
            begun(tmp_path / "vit.safetensors", classes)
    (tmp_path / "broken.safetensors").write_bytes(b"no weights")
    with pytest.raises(ValueError, match=r"model 'test_resnet' cannot be built: \w"):
        begun(tmp_path / "broken.safetensors", 3)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("", "got '', which does not exist."),
        ("timm/resnet18", "does not exist. On the Hub it is hf-hub:timm/resnet18."),
        ("runs/none.pth", "got 'runs/none.pth', which does not exist."),
        ("{run}", "which has no config.json. Pass {run}/model."),
        ("{run}/checkpoints/step-00000001", "which has no config.json. Pass {run}/model."),
        ("{run}/checkpoints", "which has no config.json. Pass RUN/model."),
    ],
)
def test_a_mistyped_checkpoint_is_told(name: str, told: str, tmp_path: Path) -> None:
    for folder in ("model", "checkpoints/step-00000001"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "model" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=f"initial_checkpoint must be .*{re.escape(told.format(run=tmp_path))}$"):
        begun(Path(name.format(run=tmp_path)) if name else name, 3)  # type: ignore[arg-type]


@pytest.mark.skipif(not RELEASED.exists(), reason=f"needs the released weights in {RELEASED.name}, beside the checkout")
def test_released_weights_with_ten_classes() -> None:
    net = begun(RELEASED, 10, "tf_efficientnet_lite0")
    check(net, load_file(RELEASED), "classifier", replaced=True)
    assert net(torch.zeros(1, 3, 64, 64)).shape == (1, 10)
