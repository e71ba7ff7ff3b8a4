import copy
import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from alignmix_timm import AlignMixModel, attach, choose_point, describe_points, draw
from alignmix_timm.points.__main__ import create_without_data, main
from alignmix_timm.points.effect import alignment_effect
from alignmix_timm.points.saved_table import read_table

# model, image size, module, layout, prefix tokens, map size: the second-last spatial block, read off the networks
EXPECTED = [
    ("resnet18", 224, "layer4.0", "NCHW", 0, (7, 7)),
    ("resnet50", 224, "layer4.1", "NCHW", 0, (7, 7)),
    ("resnet18", 64, "layer3.1", "NCHW", 0, (4, 4)),
    ("resnet18", 32, "layer2.1", "NCHW", 0, (4, 4)),
    ("convnext_atto", 224, "stages.3.blocks.0", "NCHW", 0, (7, 7)),
    ("regnety_002", 224, "s4.b6", "NCHW", 0, (7, 7)),
    ("efficientnet_b0", 224, "blocks.5.3", "NCHW", 0, (7, 7)),
    ("vgg11", 224, "features", "NCHW", 0, (7, 7)),
    ("swin_tiny_patch4_window7_224", 224, "layers.3.blocks.0", "NHWC", 0, (7, 7)),
    ("vit_tiny_patch16_224", 224, "blocks.10", "NLC", 1, (14, 14)),
    ("vit_small_patch14_reg4_dinov2", 518, "blocks.10", "NLC", 5, (37, 37)),
    ("deit_tiny_distilled_patch16_224", 224, "blocks.10", "NLC", 2, (14, 14)),
    ("cait_xxs24_224", 224, "blocks.22", "NLC", 0, (14, 14)),
    ("mixer_s32_224", 224, "blocks.6", "NLC", 0, (7, 7)),
    ("mvitv2_tiny", 224, "stages.3.blocks.0", "NLC", 0, (7, 7)),
]


@pytest.mark.parametrize(("name", "size", "module", "kind", "prefix", "map_size"), EXPECTED)
def test_default_point(name: str, size: int, module: str, kind: str, prefix: int, map_size: tuple[int, int]) -> None:
    point = choose_point(create_without_data(name), (3, size, size))
    assert (point.feature_module, point.layout.kind, point.layout.num_prefix) == (module, kind, prefix)
    assert point.map_size == map_size
    assert "spatial operation follows" in point.reason


@pytest.mark.parametrize("name", ["ecaresnet26t", "skresnet18", "ghostnet_100", "resnet18", "densenet121"])
def test_logits_depend_on_the_point_alone(name: str) -> None:
    """Cut the graph at the point, weights frozen: no gradient is left, in-place additions or not."""
    net = timm.create_model(name).eval().requires_grad_(False)
    point = choose_point(net)
    net.get_submodule(point.feature_module).register_forward_hook(lambda module, args, output: output.detach())
    images = torch.randn(2, *point.input_size, requires_grad=True)
    assert not net(images).requires_grad


def test_a_wrapped_model_is_mixed_where_it_says() -> None:
    model = AlignMixModel(timm.create_model("test_resnet", num_classes=4), input_size=(3, 64, 64))
    for one in (model, model.model, model.train()):
        assert choose_point(one, (3, 64, 64)) == model.hooks.point
    assert choose_point(model).input_size == (3, 160, 160)
    assert choose_point(model, feature_module="layer2").feature_module == "layer2"
    net = model.detach()
    assert choose_point(model) == choose_point(net)
    with pytest.raises(ValueError, match="Linear has no get_classifier"):
        choose_point(torch.nn.Linear(2, 2))


def test_the_trunk_may_stand_beside_the_classifier() -> None:
    class Wrapped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = create_without_data("resnet18")

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x)

        def get_classifier(self) -> torch.nn.Module:
            return self.net.fc

    assert choose_point(Wrapped()).feature_module == "net.layer4.0"


def test_small_images_say_what_was_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    assert (
        "layer3.1 passed over because its map is 2 x 2"
        in choose_point(create_without_data("resnet18"), (3, 32, 32)).reason
    )
    assert "passed over" in caplog.text


def test_default_size_is_the_one_the_model_was_built_for() -> None:
    assert choose_point(create_without_data("vit_tiny_patch16_224", img_size=96, in_chans=1)).input_size == (1, 96, 96)
    assert choose_point(create_without_data("test_resnet")).input_size == (3, 160, 160)
    assert choose_point(create_without_data("tresnet_m")).input_size == (3, 224, 224)


def test_images_need_not_be_square() -> None:
    point = choose_point(create_without_data("vit_tiny_patch16_224", img_size=(96, 160)))
    assert (point.layout.num_prefix, point.map_size) == (1, (6, 10))
    assert choose_point(create_without_data("swin_tiny_patch4_window7_224", img_size=(224, 448))).map_size == (7, 14)


# model, image size, module: outputs whose shape reads in more than one way
AMBIGUOUS = [
    ("swin_tiny_patch4_window7_224", (384, 384), "layers.0", "NHWC", (96, 96)),
    ("swin_tiny_patch4_window7_224", (384, 384), "patch_embed.proj", "NCHW", (96, 96)),
    ("maxvit_rmlp_pico_rw_256", (128, 1024), None, "NHWC", (4, 32)),
    ("mambaout_femto", (192, 192), "stages.0", "NHWC", (48, 48)),
    ("convnext_atto", (160, 160), "stages.0", "NCHW", (40, 40)),
    ("vit_large_patch16_224", (224, 224), None, "NLC", (14, 14)),
    ("mixer_l16_224", (224, 224), None, "NLC", (14, 14)),
]


@pytest.mark.parametrize(("name", "size", "module", "kind", "map_size"), AMBIGUOUS)
def test_a_shape_that_reads_in_two_ways(
    name: str, size: tuple[int, int], module: str | None, kind: str, map_size: tuple[int, int]
) -> None:
    """A second image size tells, or the maps of the convolutions, as in the last, which takes one size only."""
    options = {"img_size": size} if name.startswith(("swin", "maxvit")) else {}
    point = choose_point(create_without_data(name, **options), (3, *size), module)
    assert (point.layout.kind, point.map_size) == (kind, map_size)


def test_what_cannot_be_told_is_refused() -> None:
    net = create_without_data("gcvit_xxtiny", img_size=256)
    with pytest.raises(ValueError, match=r"\('B', 64, 64, 64\) of 'stages.0' .* as NCHW, 64 x 64 or as NHWC, 64 x 64"):
        choose_point(net, (3, 256, 256), "stages.0")


def test_channels_before_tokens_are_no_map() -> None:
    """1024 channels would make a map of 32 x 32."""
    with pytest.raises(ValueError, match=r"returns channels before positions, \('B', 1024, 196\)"):
        choose_point(create_without_data("mixer_l16_224"), feature_module="blocks.0.mlp_tokens")


class Merging(torch.nn.Module):
    """A block that averages neighbours in training mode."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x[:, ::2] + x[:, 1::2]) / 2 if self.training else x


def test_tokens_that_training_drops_or_merges_are_refused() -> None:
    dropping = {
        "vit_tiny_patch16_224": {"patch_drop_rate": 0.5},
        "eva02_tiny_patch14_224": {"patch_drop_rate": 0.25},
    }
    for name, options in dropping.items():
        net = create_without_data(name, **options)
        random_state = torch.get_rng_state()
        with pytest.raises(ValueError, match=r"training mode and .* in eval mode.*Build the model without"):
            choose_point(net)
        assert torch.equal(random_state, torch.get_rng_state())
        assert choose_point(net, feature_module="patch_embed").layout.kind == "NLC"
    net = create_without_data("vit_tiny_patch16_224", class_token=False, global_pool="avg")
    net.blocks.insert(5, Merging())
    with pytest.raises(ValueError, match=r"\('B', 98, 192\) in training mode and \('B', 196, 192\) in eval mode"):
        choose_point(net)


def test_classifiers() -> None:
    assert choose_point(create_without_data("resnet18")).classifiers == ("fc",)
    assert choose_point(create_without_data("convnext_atto")).classifiers == ("head.fc",)
    if "efficientvim_m1" in timm.list_models():  # not in the oldest supported timm
        heads = tuple(f"heads.{number}" for number in range(4))
        assert choose_point(create_without_data("efficientvim_m1")).classifiers == heads
    assert choose_point(create_without_data("deit_tiny_distilled_patch16_224")).classifiers == ("head", "head_dist")


class TwoTasks(torch.nn.Module):
    """A backbone and a head for each of two tasks, one under a name that heads of timm use."""

    def __init__(self, container: type) -> None:
        super().__init__()
        self.net = timm.create_model("test_resnet", num_classes=0)
        self.heads = torch.nn.ModuleDict({name: torch.nn.Linear(self.net.num_features, 4) for name in ("fc", "other")})
        self.container = container

    def get_classifier(self) -> Any:
        return self.heads if self.container is torch.nn.ModuleDict else self.container(self.heads.items())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = self.net(x)
        return self.heads["fc"](features) + self.heads["other"](features)


@pytest.mark.parametrize("container", [torch.nn.ModuleDict, dict])
def test_classifiers_in_a_dict(container: type) -> None:
    torch.manual_seed(0)
    net = TwoTasks(container)
    point = choose_point(net, (3, 64, 64))
    assert (point.feature_module, point.classifiers) == ("net.layer3.0", ("heads.fc", "heads.other"))
    model, params = AlignMixModel(net, num_classes=4, input_size=(3, 64, 64)), draw(4, 0, 0, modes=("embed",))
    images = torch.randn(4, 3, 64, 64)
    logits = model(images, torch.arange(4), params).logits
    features = model.detach().net(images)
    lam = params.lam[:, None]
    mixed = lam * features + (1 - lam) * features[params.perm]
    assert torch.allclose(logits, net.heads["fc"](mixed) + net.heads["other"](mixed), atol=1e-5)


@pytest.mark.parametrize("name", ["resnet18", "levit_128s", "vit_tiny_patch16_224"])
def test_choosing_leaves_the_model_as_it_was(name: str) -> None:
    net = timm.create_model(name).train()
    net.get_submodule(choose_point(net).feature_module).eval()
    next(net.parameters()).requires_grad_(False)
    state = copy.deepcopy(net.state_dict())
    flags = [module.training for module in net.modules()], [p.requires_grad for p in net.parameters()]
    random_state = torch.get_rng_state()
    choose_point(net)
    assert torch.equal(random_state, torch.get_rng_state())
    assert flags == ([module.training for module in net.modules()], [p.requires_grad for p in net.parameters()])
    assert all(torch.equal(state[key], value) for key, value in net.state_dict().items())
    assert not any(module._forward_hooks for module in net.modules())
    assert net.eval()(torch.zeros(1, 3, 224, 224)).isfinite().all()  # no fake tensor was left in a cache


def test_override_by_name_and_index() -> None:
    net = create_without_data("resnet18")
    assert choose_point(net, feature_module="layer3").map_size == (14, 14)
    assert choose_point(net, feature_module=-1).feature_module == "layer4.1"
    assert choose_point(net, feature_module=-2).feature_module == "layer4.0"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("layer5", "'layer5' does not exist in ResNet"),
        ("fc", r"'fc' has no spatial positions, it returns \('B', 1000\)"),
        ("global_pool", "'global_pool' has no spatial positions"),
        (99, "feature_module must be an index into"),
    ],
)
def test_bad_override_is_named(override: str | int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        choose_point(create_without_data("resnet18"), feature_module=override)


def test_small_and_partial_overrides_warn() -> None:
    with pytest.warns(UserWarning, match="the map at 'layer4.0' is 1 x 2, under 4 x 4"):
        choose_point(create_without_data("resnet18"), (3, 32, 64), "layer4.0")
    with pytest.warns(UserWarning, match="what by-passes it is not mixed"):
        choose_point(create_without_data("resnet18"), feature_module="layer4.0.conv1")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("crossvit_9_240", {}, "has no map of at least 4 x 4 positions on which the logits depend alone"),
        ("vit_tiny_patch16_224", {"img_size": 32}, "Use larger images"),
    ],
)
def test_no_usable_point_is_an_error(name: str, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        choose_point(create_without_data(name, **options))


def test_not_a_classifier_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"has no get_classifier\(\)"):
        choose_point(torch.nn.Conv2d(3, 3, 3))


def test_wrong_image_size_keeps_the_models_own_error() -> None:
    with pytest.raises(ValueError, match="does not run on images of size") as caught:
        choose_point(create_without_data("vit_tiny_patch16_224"), (3, 50, 50))
    assert caught.value.__cause__ is not None


EFFECT_MODELS = (
    "resnet18",
    pytest.param("resnet50", marks=pytest.mark.slow),
    "convnext_atto",
    "regnety_002",
    pytest.param("swin_tiny_patch4_window7_224", marks=pytest.mark.slow),
    "vit_tiny_patch16_224",
)


@pytest.mark.parametrize("name", EFFECT_MODELS)
def test_alignment_matters_at_the_default_point(name: str) -> None:
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=10)
    assert alignment_effect(net, choose_point(net)) > 1e-2


def test_alignment_is_a_no_op_at_the_last_map() -> None:
    torch.manual_seed(0)
    resnet, vit = timm.create_model("resnet18", num_classes=10), timm.create_model("vit_tiny_patch16_224")
    assert alignment_effect(resnet, choose_point(resnet, feature_module="layer4")) < 1e-4
    assert alignment_effect(vit, choose_point(vit, feature_module="blocks.11")) == 0


def test_a_degenerate_override_warns_with_the_measured_difference() -> None:
    net = timm.create_model("resnet18", num_classes=10)
    with pytest.warns(UserWarning, match=r"alignment has no effect at 'layer4'.*differ by .*e-0"):
        attach(net, feature_module="layer4").detach()


def test_a_fresh_default_does_not_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attach(timm.create_model("resnet18")).detach()
        attach(timm.create_model("convnext_atto"), feature_module="stages.3.blocks.0").detach()


def test_measuring_leaves_the_model_as_it_was() -> None:
    net = timm.create_model("resnet18")
    state, random_state = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    alignment_effect(net, choose_point(net))
    assert net.training
    assert torch.equal(random_state, torch.get_rng_state())
    assert all(torch.equal(state[key], value) for key, value in net.state_dict().items())


@pytest.mark.slow
def test_the_table_of_support_is_a_command() -> None:
    command = [sys.executable, "-m", "alignmix_timm.points", "test_resnet", "crossvit_9_240"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "test_resnet: layer3.0 NCHW r=100, the deepest map that a spatial operation follows" in done.stdout
    assert "crossvit_9_240: CrossVit at images of 240 x 240 has no map" in done.stdout
    assert "crossvit 0/1, resnet 1/1\n1 of 2 supported, timm" in done.stdout
    assert "Warning: 'alignmix_timm.points'" not in done.stderr


@pytest.fixture
def logging_restored() -> Iterator[None]:
    """The command turns warnings off for its process."""
    yield
    logging.disable(logging.NOTSET)


def test_the_table_of_support_resumes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], logging_restored: None
) -> None:
    path = tmp_path / "points.jsonl"
    save = ["--save", str(path)]
    main([*save, "test_resnet"])
    row = json.loads(path.read_text())
    path.write_text(json.dumps({**row, "module": "kept"}) + '\n{"model": "test_v')
    main([*save, "test_resnet", "test_vit"])
    assert "test_resnet: kept" in capsys.readouterr().out
    assert [json.loads(line)["model"] for line in path.open()] == ["test_resnet", "test_vit"]
    main([*save, "test_resnet", "--image-size", "32"])
    assert "test_resnet: layer2.0 NCHW r=16" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        main([*save, "resnet"])
    assert "not in timm.list_models()" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content",
    [b"some text\nmore of it", b"one line", b"[1]\n", b"\xff\xfe\n", b'{"a": 1}\n', b"\n", b'{"model": "test_v\n'],
)
def test_a_file_of_other_things_is_refused_and_kept(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str], logging_restored: None
) -> None:
    path = tmp_path / "points.jsonl"
    path.write_bytes(content)
    with pytest.raises(SystemExit, match="2"):
        main(["--save", str(path), "test_resnet"])
    said = capsys.readouterr()
    assert f"--save must be a new file, or one that --save wrote, got {path}: its line 1 is no row" in said.err
    assert not said.out
    assert path.read_bytes() == content


def test_a_folder_and_a_file_in_no_folder_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], logging_restored: None
) -> None:
    for path, reason in (
        (tmp_path, "Is a directory"),
        (tmp_path / "new" / "points.jsonl", "No such file or directory"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main(["--save", str(path), "test_resnet"])
        assert f"--save must be a file that can be written, got {path}: {reason}" in capsys.readouterr().err


def test_only_what_was_cut_off_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "points.jsonl"
    row = {"model": "a", "family": "b", "image_size": None, "timm": "1", "refused": "c"}
    whole = json.dumps(row).encode()
    for content, left, rows in (
        (whole, whole + b"\n", 1),
        (whole + b"\n" + whole[:30], whole + b"\n", 1),
        (whole + b"\n" + whole[:3], whole + b"\n", 1),
        (b"", b"", 0),
    ):
        path.write_bytes(content)
        assert read_table(path) == [row] * rows
        assert path.read_bytes() == left
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--weights w --epsilon 0.1 0.2", "only with --images: --weights, --epsilon"),
        ("--places layer1", "only with --images: --places"),
        ("--boxes b --box-format xyxy", "only with --images: --boxes, --box-format"),
        ("--image-column c --split train", "only with --images: --image-column, --split"),
        ("--pairs 300 --seed 0", "only with --images: --pairs, --seed"),  # the defaults, and yet they were given
        ("--images i --box-format xywh", "--box-format goes with --boxes"),
        ("--images i --pairs 1", "argument --pairs: must be an integer >= 2, got '1'"),
        ("--images i --seed -1", "argument --seed: must be an integer >= 0, got '-1'"),
        ("--images i --image-size 0", "argument --image-size: must be an integer >= 1, got '0'"),
        ("--image-size -32", "argument --image-size: must be an integer >= 1, got '-32'"),
    ],
)
def test_options_that_cannot_be_used_are_refused(
    options: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["test_resnet", *options.split()])
    assert f"error: {message}\n" in capsys.readouterr().err


def test_description_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    point = describe_points(create_without_data("resnet18"))
    assert point == choose_point(create_without_data("resnet18"))
    assert (
        "ResNet at images of (3, 224, 224): features at layer4.0 (NCHW, 7 x 7), the deepest" in capsys.readouterr().out
    )
