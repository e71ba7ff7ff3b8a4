"""Weights that plain timm loads, whatever the model went through."""

import json
from pathlib import Path

import pytest
import timm
import torch
from timm.utils import ModelEmaV3
from torch import nn

from alignmix_timm import AlignMixModel
from alignmix_timm.publish import load_for_timm, save_for_timm

DATA = {"input_size": [3, 64, 64], "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.1], "crop_pct": 1.0}
NAMES = ["a", "b", "c"]
READS_FOLDERS = tuple(int(part) for part in timm.__version__.split(".")[:3]) >= (1, 0, 26)
loads_folders = pytest.mark.skipif(not READS_FOLDERS, reason="local-dir: loads safetensors from timm 1.0.26 on")


def variants() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    net = timm.create_model("test_resnet", num_classes=3)
    wrapped = AlignMixModel(net, input_size=(3, 64, 64))
    compiled = timm.create_model("test_resnet", num_classes=3)
    compiled.compile(backend="eager")
    return {
        "hooked": wrapped.model,
        "channels_last": timm.create_model("test_resnet", num_classes=3).to(memory_format=torch.channels_last),
        "half": timm.create_model("test_resnet", num_classes=3).to(torch.bfloat16),
        "average": ModelEmaV3(net).module,
        "compiled": compiled,
    }


@loads_folders
@pytest.mark.parametrize("name", ["hooked", "channels_last", "half", "average", "compiled"])
def test_plain_timm_gives_the_logits_of_the_weights_in_fp32(name: str, tmp_path: Path) -> None:
    net = variants()[name].eval()
    dtypes = {parameter.dtype for parameter in net.parameters()}
    save_for_timm(net, tmp_path, NAMES, DATA)
    assert {parameter.dtype for parameter in net.parameters()} == dtypes
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    images = torch.randn(2, 3, 64, 64)
    expected = timm.create_model("test_resnet", num_classes=3).eval()
    expected.load_state_dict({key: value.float() for key, value in net.state_dict().items()})
    with torch.no_grad():
        assert torch.equal(loaded(images), expected(images))
        assert torch.equal(load_for_timm(tmp_path).eval()(images), expected(images))
    assert list(timm.data.resolve_data_config(model=loaded)["mean"]) == [0.5, 0.4, 0.3]
    assert loaded.pretrained_cfg["label_names"] == NAMES


def test_arguments_of_the_architecture_are_kept(tmp_path: Path) -> None:
    net = timm.create_model("test_vit", num_classes=3, img_size=64, in_chans=1)
    save_for_timm(net, tmp_path, NAMES, {**DATA, "input_size": (1, 64, 64)}, {"img_size": 64})
    assert json.loads((tmp_path / "config.json").read_text())["model_args"]["img_size"] in (64, [64, 64])
    loaded = load_for_timm(tmp_path)
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in loaded.state_dict().items())
