"""Weights that plain timm loads, whatever the model went through."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.distributed as dist
from PIL import Image
from safetensors.torch import load_file
from timm.models import model_entrypoint
from timm.utils import ModelEmaV3
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from alignmix_timm import AlignMixModel
from alignmix_timm.publishing.card import make_card
from alignmix_timm.publishing.save import load_for_timm, save_for_timm
from alignmix_timm.publishing.verify import check_folder

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


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_wrappers_are_taken_off(tmp_path: Path, group: None) -> None:
    net = timm.create_model("test_resnet", num_classes=3)
    keys = set(net.state_dict())
    wrapped = AlignMixModel(net, input_size=(3, 64, 64))
    for model in (wrapped, DistributedDataParallel(wrapped), ModelEmaV3(net), AveragedModel(net), torch.compile(net)):
        save_for_timm(model, tmp_path / "model", NAMES, DATA)
        saved = load_file(tmp_path / "model" / "model.safetensors")
        assert set(saved) == keys
        assert all(torch.equal(saved[name], value) for name, value in net.state_dict().items())
    wrapped.train()  # not disturbed: still hooked, and in training mode
    assert wrapped.model is net
    assert wrapped.hooks.point.feature_module


def test_tied_weights_are_saved_twice_and_transposed_ones_contiguous(tmp_path: Path) -> None:
    net = timm.create_model("test_vit", num_classes=3, img_size=64)
    net.blocks[1].attn.qkv.weight = net.blocks[0].attn.qkv.weight
    net.head.weight = nn.Parameter(torch.randn(net.head.weight.shape[::-1]).T)
    save_for_timm(net, tmp_path / "model", NAMES, DATA, {"img_size": 64})
    loaded = load_for_timm(tmp_path / "model").state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in net.state_dict().items())


def test_half_precision_is_stored_if_asked_for(tmp_path: Path) -> None:
    net = timm.create_model("test_resnet", num_classes=3)
    save_for_timm(net, tmp_path / "model", NAMES, DATA, dtype=torch.bfloat16)
    saved = load_file(tmp_path / "model" / "model.safetensors")
    assert {value.dtype for value in saved.values()} == {torch.bfloat16, torch.int64}
    loaded = load_for_timm(tmp_path / "model").state_dict()
    assert all(torch.equal(loaded[name], value.float()) for name, value in saved.items() if value.ndim)


def test_what_cannot_be_published_is_refused(tmp_path: Path) -> None:
    net = timm.create_model("test_resnet", num_classes=3)
    with pytest.raises(ValueError, match="must be a timm model, or a wrapper of one, got Linear"):
        save_for_timm(nn.Linear(2, 2), tmp_path / "model", NAMES, DATA)
    with pytest.raises(ValueError, match="must name the 3 classes of the model, got 2 names"):
        save_for_timm(net, tmp_path / "model", NAMES[:2], DATA)
    with pytest.raises(ValueError, match=r"dtype must be of one of torch.float64, .* got torch.float8_e4m3fn\. Leave"):
        save_for_timm(net, tmp_path / "model", NAMES, DATA, dtype=torch.float8_e4m3fn)
    with pytest.raises(ValueError, match=r"the weights of model must be of .* got torch.float8_e4m3fn\. Convert"):
        save_for_timm(net.to(torch.float8_e4m3fn), tmp_path / "model", NAMES, DATA)
    with pytest.raises(ValueError, match=r"must be a folder of save_for_timm, it has no model\.safetensors"):
        check_folder(tmp_path / "model")


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o002, 0o664), (0o077, 0o600)])
def test_files_have_the_mode_that_the_umask_gives(tmp_path: Path, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        save_for_timm(timm.create_model("test_resnet", num_classes=3), tmp_path / "model", NAMES, DATA)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "model").iterdir()} == {mode}


def change(path: Path, name: str, value: object) -> None:
    text = json.loads(path.read_text())
    path.write_text(json.dumps({**text, name: value}))


def test_the_check_finds_a_folder_that_was_changed(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    save_for_timm(timm.create_model("test_resnet", num_classes=3).double(), folder, NAMES, DATA)
    saved = json.loads((folder / "provenance.json").read_text())["saved"]
    change(folder / "provenance.json", "saved", {**saved, "difference": 2e-3})
    with pytest.raises(ValueError, match=r"differ from those as trained .* by 0.002 of the largest, more than 0.001"):
        check_folder(folder)
    change(folder / "provenance.json", "saved", {**saved, "logits": (torch.tensor(saved["logits"]) + 1).tolist()})
    with pytest.raises(ValueError, match="differ from those when they were saved by"):
        check_folder(folder)
    change(folder / "config.json", "architecture", "nobody_has_this")
    with pytest.raises(ValueError, match="has no architecture 'nobody_has_this'"):
        check_folder(folder)


def test_an_architecture_that_only_this_process_knows_is_refused(tmp_path: Path) -> None:
    def mine_alone(pretrained: bool = False, **args: object) -> nn.Module:
        return timm.create_model("test_resnet", **args)

    timm.models.register_model(mine_alone)
    save_for_timm(timm.create_model("test_resnet", num_classes=3), tmp_path / "model", NAMES, DATA)
    change(tmp_path / "model" / "config.json", "architecture", "mine_alone")
    with pytest.raises(ValueError, match=r"plain timm cannot load .* not published: .*mine_alone"):
        check_folder(tmp_path / "model")


def test_an_architecture_of_this_package_is_loaded_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An architecture that only claims to be ours stands in for one."""
    monkeypatch.setattr(model_entrypoint("test_resnet"), "__module__", "alignmix_timm.networks.preact_resnet")
    net = timm.create_model("test_resnet", num_classes=3).double()
    save_for_timm(net, tmp_path / "model", NAMES, DATA, dtype=torch.float64)
    said = check_folder(tmp_path / "model")
    assert "timm and alignmix_timm loads" in said
    assert "as trained (float64, contiguous_format, cpu) by" in said
    assert "import alignmix_timm" in make_card(tmp_path / "model", "user/name").text


def test_a_model_evaluated_at_another_size_than_it_was_built_for(tmp_path: Path) -> None:
    net = timm.create_model("xcit_nano_12_p16_224", num_classes=3).eval()
    save_for_timm(net, tmp_path / "model", NAMES, DATA)
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["pretrained_cfg"]["input_size"] == [3, 64, 64]
    assert config["model_args"]["img_size"] == [64, 64]  # by which timm sets the size


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("test_resnet", {}),
        ("test_vit", {"img_size": 64}),
        ("alignmix_encoder", {"backbone": "test_resnet", "img_size": 64, "grid": 2, "embed_dim": 16}),
    ],
)
def test_transformers_pipeline_gives_the_scores_of_timm(name: str, args: dict[str, Any], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=3, **args).eval()
    data = {**DATA, "interpolation": "bicubic", "crop_mode": "center"}
    save_for_timm(net, tmp_path / "model", NAMES, data, args)
    image = Image.effect_noise((64, 64), 80).convert("RGB")
    found = transformers.pipeline("image-classification", model=str(tmp_path / "model"))(image)
    transform = timm.data.create_transform(**timm.data.resolve_data_config(data, model=net))
    with torch.no_grad():
        scores = dict(zip(NAMES, net(transform(image)[None]).softmax(1)[0].tolist(), strict=True))
    assert {one["label"]: one["score"] for one in found} == pytest.approx(scores, abs=1e-5)
