"""The networks of the paper: counts by hand, maps, weights, and what timm and AlignMix ask of a model."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from launcher import ENVIRONMENT
from safetensors.torch import load_file, save_file
from test_save import loads_folders
from timm.models.vgg import VGG, cfgs
from timm.optim import create_optimizer_v2
from torch import Tensor, nn

from alignmix_timm import AlignMixModel, choose_point, draw
from alignmix_timm.networks.preact_resnet import PreActBlock
from alignmix_timm.networks.staged import StagedNet
from alignmix_timm.points.__main__ import create_without_data
from alignmix_timm.publishing.save import save_for_timm
from alignmix_timm.training.build import build_model
from alignmix_timm.training.config import TrainConfig

NAMES = ("preact_resnet18", "wide_resnet16_8", "vgg16_gap", "resnet50_stride1")
SMALL: dict[str, dict[str, Any]] = {  # quick to train at 32 or 64 pixels
    "preact_resnet18": {"width": 8},
    "wide_resnet16_8": {"width": 8, "stem_width": 4},
    "vgg16_gap": {"img_size": 32},
    "resnet50_stride1": {"zero_init_last": False},  # so that every weight gets a gradient
}


def small(name: str, **options: Any) -> tuple[Any, Tensor]:
    torch.manual_seed(0)
    size = 64 if name == "resnet50_stride1" else 32
    return timm.create_model(name, num_classes=10, **{**SMALL[name], **options}), torch.randn(4, 3, size, size)


def count(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def preact_count(stem: int, widths: tuple[int, ...], classes: int) -> int:
    """Weights of a pre-activation ResNet of two blocks a stage, a 3 x 3 stem and 3 colours."""
    total, chs = 9 * 3 * stem, stem
    for width in widths:
        total += 9 * chs * width + 3 * 9 * width * width + 2 * chs + 3 * 2 * width + (chs != width) * chs * width
        chs = width
    return total + 2 * chs + chs * classes + classes


def test_counts_are_those_published_and_by_hand() -> None:
    resnet = count(create_without_data("preact_resnet18", num_classes=10))
    assert resnet == preact_count(64, (64, 128, 256, 512), 10)
    assert round(resnet / 1e6, 2) == 11.17
    wide = count(create_without_data("wide_resnet16_8", num_classes=10))
    assert wide == preact_count(16, (128, 256, 512), 10)
    assert round(wide / 1e6, 1) == 11.0
    assert count(create_without_data("resnet50_stride1")) == 25_557_032
    vgg = 14_714_688 + (9 * 512 * 1024 + 1024) + (1024 * 200 + 200)  # convolutions of VGG-16, conv6, classifier
    assert count(create_without_data("vgg16_gap", num_classes=200)) == vgg


MAPS = [
    ("preact_resnet18", {}, 32, (512, 4, 4), "stages.3.0"),
    ("preact_resnet18", {"img_size": 64}, 64, (512, 4, 4), "stages.3.0"),
    ("preact_resnet18", {"img_size": 224}, 224, (512, 7, 7), "stages.3.0"),
    ("preact_resnet18", {"last_stride": 1}, 32, (512, 8, 8), "stages.3.0"),
    ("preact_resnet18", {"last_stride": 1, "img_size": 64, "width": 16}, 64, (128, 8, 8), "stages.3.0"),
    ("wide_resnet16_8", {}, 32, (512, 8, 8), "stages.2.0"),
    ("wide_resnet16_8", {"img_size": 64}, 64, (512, 8, 8), "stages.2.0"),
    ("wide_resnet16_8", {"img_size": 224}, 224, (512, 14, 14), "stages.2.0"),
    ("vgg16_gap", {}, 224, (1024, 14, 14), "stages.4"),
    ("vgg16_gap", {"img_size": (64, 64)}, 64, (1024, 4, 4), "stages.4"),
    ("vgg16_gap", {"img_size": 32}, 32, (1024, 4, 4), "stages.4"),
    ("resnet50_stride1", {}, 224, (2048, 14, 14), "layer4.1"),
]


@pytest.mark.parametrize(("name", "options", "size", "shape", "module"), MAPS)
def test_maps_and_where_they_are_mixed(name: str, options: dict, size: int, shape: tuple, module: str) -> None:
    images = torch.zeros(2, 3, size, size, device="meta")
    net: Any = create_without_data(name, num_classes=0, global_pool="", **options)
    assert net(images).shape[1:] == net.forward_features(images).shape[1:] == shape
    point = choose_point(create_without_data(name, **options))
    assert (point.input_size, point.feature_module) == ((3, size, size), module)
    assert point.map_size == shape[1:]
    extractor: Any = create_without_data(name, features_only=True, **options)
    maps, info = extractor(images), extractor.feature_info
    assert [found.shape[1] for found in maps] == info.channels()
    assert [found.shape[2] * factor for found, factor in zip(maps, info.reduction(), strict=True)] == [size] * len(maps)
    assert maps[-1].shape[1:] == shape


@pytest.mark.parametrize("name", NAMES)
def test_the_last_extracted_map_is_that_of_forward_features(name: str) -> None:
    net, images = small(name)
    extractor, _ = small(name, features_only=True)  # the same seed: the same weights
    with torch.no_grad():
        assert torch.equal(extractor.eval()(images)[-1], net.eval().forward_features(images))


def normalised(x: Tensor, norm: nn.Module) -> Tensor:
    """ReLU of batch norm by its formula, with the statistics of the batch."""
    mean, variance = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), keepdim=True, correction=0)
    scale, shift = (norm.state_dict()[key].view(1, -1, 1, 1) for key in ("weight", "bias"))
    return ((x - mean) / (variance + 1e-5).sqrt() * scale + shift).clamp(min=0)


def convolved(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """A convolution as a product of matrices."""
    kernel = weight.shape[-1]
    columns = nn.functional.unfold(x, kernel, padding=kernel // 2, stride=stride)
    side = (x.shape[2] - 1) // stride + 1
    return (weight.flatten(1) @ columns).unflatten(2, (side, side))


def preact_block(x: Tensor, block: Any, stride: int) -> Tensor:
    """x_{l+1} = h(x_l) + F(x_l), He et al. (2016): h is the identity, or a projection of the activated map."""
    activated = normalised(x, block.norm1)
    residual = convolved(activated, block.conv1.weight, stride)
    residual = convolved(normalised(residual, block.norm2), block.conv2.weight, 1)
    return residual + (x if block.shortcut is None else convolved(activated, block.shortcut.weight, stride))


def test_the_forward_pass_is_that_of_the_formula() -> None:
    net, images = small("preact_resnet18", width=4, last_stride=1)
    net, images = net.double().train(), images.double()
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.5)
    with torch.no_grad():
        x = convolved(images, net.stem[0].weight, 1)
        for stage, stride in zip(net.stages, (1, 2, 2, 1), strict=True):
            x = preact_block(preact_block(x, stage[0], stride), stage[1], 1)
        x = normalised(x, net.final)
        logits = x.mean((2, 3)) @ net.head.fc.weight.T + net.head.fc.bias
        torch.testing.assert_close(net.forward_features(images), x, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(net(images), logits, rtol=1e-9, atol=1e-9)
    assert net.stages[0][0].shortcut is None  # 4 channels in and out
    assert PreActBlock(4, 8, 1).shortcut is not None


def test_convolutions_start_as_in_the_papers() -> None:
    torch.manual_seed(0)
    net = timm.create_model("preact_resnet18")
    weight = net.stages[3][1].conv2.weight
    assert weight.std().item() == pytest.approx((2 / (9 * 512)) ** 0.5, rel=0.01)  # fan out


@pytest.mark.parametrize("name", NAMES)
def test_the_classifier_is_reset(name: str) -> None:
    net, images = small(name)
    net.eval()
    with torch.no_grad():
        found = net.forward_features(images)
        torch.testing.assert_close(net.forward_head(found, pre_logits=True), found.mean((2, 3)))
        net.reset_classifier(7)
        assert net(images).shape == (4, 7)
        assert net.get_classifier().weight.shape == (7, net.num_features)
        net.reset_classifier(5, "catavgmax")
        assert net(images).shape == (4, 5)
        assert net.get_classifier().in_features == 2 * net.num_features
        if isinstance(net, StagedNet):  # timm 1.0.15 does not update it
            assert net.head_hidden_size == 2 * net.num_features
        net.reset_classifier(0, "")
        assert torch.equal(net(images), found)
    assert net.num_classes == 0


@pytest.mark.parametrize("name", NAMES)
def test_a_step_in_every_mode_changes_every_weight(name: str) -> None:
    net, images = small(name)
    model = AlignMixModel(net, input_size=tuple(images.shape[1:])).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for mode in ("none", "input", "embed", "feat", "feat_swap"):
        before = {key: value.clone() for key, value in net.named_parameters()}
        model(images, torch.arange(4), draw(4, 0, 0, modes=(mode,))).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        assert not [key for key, value in net.named_parameters() if torch.equal(value, before[key])], mode


@pytest.mark.parametrize("name", NAMES[:3])
def test_checkpointed_gradients_are_the_same(name: str) -> None:
    gradients = []
    for enable in (False, True):
        net, images = small(name)
        net.set_grad_checkpointing(enable)
        model = AlignMixModel(net, input_size=(3, 32, 32)).train()
        model(images, torch.arange(4), draw(4, 0, 0, modes=("feat",))).loss.backward()
        gradients.append([parameter.grad for parameter in net.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)


def test_layers_have_their_own_rates() -> None:
    net, _ = small("preact_resnet18")
    groups = create_optimizer_v2(net, "sgd", lr=1.0, layer_decay=0.5).param_groups
    scale = {id(parameter): group["lr_scale"] for group in groups for parameter in group["params"]}
    order = [net.stem[0].weight, net.stages[0][0].conv1.weight, net.stages[3][1].conv2.weight, net.head.fc.weight]
    scales = [scale[id(weight)] for weight in order]
    assert scales == sorted(scales)
    assert scales[0] < scales[1] < scales[2] < scales[3] == 1


@loads_folders
def test_saved_models_need_this_package_and_its_names_are_new(tmp_path: Path) -> None:
    for name in NAMES[:3]:
        args = {**SMALL[name], "img_size": 64}
        net, _ = small(name, **args, in_chans=1)
        data = {"input_size": (1, 64, 64), "mean": (0.5,), "std": (0.2,), "crop_pct": 1.0}
        save_for_timm(net, tmp_path / name, [str(label) for label in range(10)], data, args)
        images = torch.randn(2, 1, 64, 64)
        save_file({"images": images, "logits": net.eval()(images).detach()}, tmp_path / f"{name}.safetensors")
    script = (
        "import timm, torch\n"
        "from safetensors.torch import load_file\n"
        f"names, folder = {NAMES[:3]}, {str(tmp_path)!r}\n"
        "for name in names:\n"
        "    try:\n"
        "        timm.create_model(f'local-dir:{folder}/{name}', pretrained=True)\n"
        "    except RuntimeError as error:\n"
        "        print(error)\n"
        "import alignmix_timm\n"
        "for name in names:\n"
        "    net = timm.create_model(f'local-dir:{folder}/{name}', pretrained=True).eval()\n"
        "    saved = load_file(f'{folder}/{name}.safetensors')\n"
        "    print(name, torch.equal(net(saved['images']), saved['logits']), net.pretrained_cfg['input_size'])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], env=ENVIRONMENT, check=True, capture_output=True, text=True)
    expected = [f"Unknown model ({name})" for name in NAMES[:3]]
    assert done.stdout.splitlines() == [*expected, *(f"{name} True (1, 64, 64)" for name in NAMES[:3])]
    assert "Overwriting" not in done.stderr


@pytest.fixture(scope="module")
def vgg(tmp_path_factory: pytest.TempPathFactory) -> tuple[VGG, Path]:
    """timm's VGG-16 with its convolutions and a thin head, and the file of its weights."""
    torch.manual_seed(1)
    net = VGG(cfgs["vgg16"], mlp_ratio=1 / 4096).eval()
    path = tmp_path_factory.mktemp("vgg") / "vgg16.safetensors"
    save_file(net.state_dict(), path)
    return net, path


@pytest.mark.parametrize("options", [{"num_classes": 200}, {"num_classes": 1000}, {"img_size": 64}])
def test_the_convolutions_of_vgg16_are_loaded(vgg: tuple[VGG, Path], options: dict) -> None:
    net: Any = timm.create_model("vgg16_gap", pretrained=True, pretrained_cfg_overlay={"file": str(vgg[1])}, **options)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(net.stages(images), vgg[0].features[:30](images))
    assert net.eval()(images).shape == (2, options.get("num_classes", 1000))


def test_vgg16_for_other_images(vgg: tuple[VGG, Path]) -> None:
    overlay = {"file": str(vgg[1])}
    grey: Any = timm.create_model("vgg16_gap", pretrained=True, pretrained_cfg_overlay=overlay, in_chans=1, img_size=32)
    weight = vgg[0].features[0].weight
    torch.testing.assert_close(grey.stages[0][1].weight, weight.sum(1, keepdim=True))
    assert torch.equal(grey.stages[4][5].weight, vgg[0].features[28].weight)


def test_weights_that_are_not_those_of_vgg16_are_refused(vgg: tuple[VGG, Path], tmp_path: Path) -> None:
    state = load_file(vgg[1])
    del state["features.24.weight"]
    save_file(state, tmp_path / "part.safetensors")
    with pytest.raises(ValueError, match=r"those of a VGG-16, but they lack features\.24\.weight\.$"):
        timm.create_model(
            "vgg16_gap", pretrained=True, pretrained_cfg_overlay={"file": str(tmp_path / "part.safetensors")}
        )


def test_the_weights_of_resnet50_give_the_same_map_at_every_second_position(tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain: Any = timm.create_model("resnet50", zero_init_last=False).eval()
    save_file(plain.state_dict(), tmp_path / "resnet50.safetensors")
    overlay = {"file": str(tmp_path / "resnet50.safetensors")}
    net: Any = timm.create_model("resnet50_stride1", pretrained=True, pretrained_cfg_overlay=overlay).eval()
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in plain.state_dict().items())
    x = torch.randn(1, 1024, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(net.layer4[0](x)[..., ::2, ::2], plain.layer4[0](x))
    assert not [module for module in net.modules() if isinstance(module, nn.Conv2d) and module.dilation != (1, 1)]


def test_the_engine_builds_for_the_size_of_the_images() -> None:
    options = TrainConfig(model="preact_resnet18", img_size=64, model_args={"width": 8}, in_chans=1)
    net = build_model(options, 5)
    assert net.stem[0].stride == (2, 2)
    assert net.pretrained_cfg["input_size"] == (3, 64, 64)
    assert choose_point(net).map_size == (4, 4)


@pytest.mark.parametrize(("option", "message"), [("last_stride", r"1 or 2, got 0\."), ("width", r">= 1, got 0\.")])
def test_wrong_structures_are_refused(option: str, message: str) -> None:
    with pytest.raises(ValueError, match=rf"{option} must be .*{message}"):
        timm.create_model("preact_resnet18", **{option: 0})


def test_weights_that_do_not_exist_are_not_promised() -> None:
    with pytest.raises(RuntimeError, match="No pretrained weights exist for preact_resnet18"):
        timm.create_model("preact_resnet18", pretrained=True)
    assert timm.models.get_pretrained_cfg("vgg16_gap").hf_hub_id == "timm/vgg16.tv_in1k"
    assert timm.models.get_pretrained_cfg("resnet50_stride1").hf_hub_id == "timm/resnet50.tv_in1k"
