"""The encoder on timm backbones, its decoder, and the autoencoders' publishing."""

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from alignmix_timm import AlignMixModel, Autoencoder, Encoder, attach, choose_point
from alignmix_timm.networks.decoder import Decoder
from alignmix_timm.networks.encoder import FeatureMap
from alignmix_timm.points.effect import NO_EFFECT, alignment_effect
from alignmix_timm.points.layout import Layout
from alignmix_timm.publishing.card import make_card
from alignmix_timm.publishing.load_plain import reads_folders
from alignmix_timm.publishing.save import load_for_timm, save_for_timm
from alignmix_timm.publishing.verify import check_folder
from alignmix_timm.training.config import TrainConfig

NARROW = dict(backbone="preact_resnet18", img_size=32, num_classes=5, embed_dim=32, backbone_args={"width": 4})
SMALL_SWIN = dict(depths=(1, 1, 1, 1), embed_dim=12, num_heads=(1, 1, 2, 2), window_size=4)
DATA = dict(input_size=(3, 32, 32), mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=1.0, interpolation="bilinear")


def encoder(**options: Any) -> Encoder:
    torch.manual_seed(0)
    return timm.create_model("alignmix_encoder", **{**NARROW, **options}).eval()


def images(size: int, count: int = 2, channels: int = 3) -> Tensor:
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("backbone", "size", "kind", "args"),
    [
        ("test_resnet", 192, "NCHW", {}),
        ("test_convnext", 160, "NCHW", {}),
        ("test_vit", 96, "NLC", {}),
        ("swin_tiny_patch4_window7_224", 256, "NHWC", SMALL_SWIN),
    ],
)
def test_any_backbone_ends_with_the_averaged_map(backbone: str, size: int, kind: str, args: dict[str, Any]) -> None:
    net = encoder(backbone=backbone, img_size=size, backbone_args=args)
    assert net.features.layout.kind == kind
    height, width = net.features.size
    last = net.features.backbone(images(size))
    last = {"NCHW": lambda: last, "NHWC": lambda: last.permute(0, 3, 1, 2)}.get(
        kind, lambda: last[:, -height * width :].mT.reshape(2, -1, height, width)
    )()
    found = net.forward_features(images(size))
    if height % 4 == 0:
        expected = last.unflatten(2, (4, height // 4)).unflatten(4, (4, width // 4)).mean((3, 5))
    else:
        expected = F.adaptive_avg_pool2d(last, 4)
    assert torch.allclose(found, expected, atol=1e-5)
    unused = [name for name, parameter in net.named_parameters() if _gradient(net, size, name, parameter) is None]
    assert not unused
    point = choose_point(net, (3, size, size))
    assert (point.feature_module, point.map_size, point.classifiers) == ("features", (4, 4), ("head",))


def test_a_backbone_of_one_size_whose_last_map_reads_in_two_ways() -> None:
    """Its 256 channels could be a map of 16 x 16; its first convolution makes one of 14 x 14."""
    features = FeatureMap("gmlp_s16_224", (3, 224, 224), 4)
    assert (features.layout, features.size, features.num_features) == (Layout("NLC"), (14, 14), 256)


def _gradient(net: Encoder, size: int, name: str, parameter: Tensor) -> Tensor | None:
    if parameter.grad is None:
        net(images(size)).sum().backward()
    return parameter.grad


@pytest.mark.parametrize("embedding", ["flatten", "tensor"])
def test_logits_are_those_of_matrices(embedding: str) -> None:
    net = encoder(embedding=embedding)
    feats = net.forward_features(images(32))  # [2, 32, 4, 4]
    if embedding == "flatten":
        expected = feats.flatten(1) @ net.embed.weight.flatten(1).T + net.embed.bias
    else:  # each of the 2 x 2 positions sees a window of 2 x 2
        windows = feats.unfold(2, 2, 2).unfold(3, 2, 2)  # [2, 32, 2, 2, 2, 2]
        expected = torch.einsum("bcijkl,dckl->bdij", windows, net.embed.weight) + net.embed.bias.view(-1, 1, 1)
        expected = expected.flatten(1)
    assert expected.shape == (2, 32)
    embedding_of = net.forward_head(feats, pre_logits=True)
    assert torch.allclose(embedding_of, expected, atol=1e-4)
    logits = expected @ net.head.weight.flatten(1).T + net.head.bias
    assert torch.allclose(net(images(32)), logits, atol=1e-4)
    net.reset_classifier(0)
    assert torch.equal(net(images(32)), embedding_of)
    net.reset_classifier(7)
    assert net(images(32)).shape == (2, 7)


def test_alignment_matters_before_a_flattened_embedding_and_not_before_pooling() -> None:
    """The authors' released networks pool: there alignment of the last map changes nothing at all."""
    flat = encoder()
    point = choose_point(flat, (3, 32, 32))
    assert alignment_effect(flat, point) > 100 * NO_EFFECT
    torch.manual_seed(0)
    pooled = timm.create_model("preact_resnet18", img_size=32, num_classes=5, width=4)
    point = choose_point(pooled, (3, 32, 32), feature_module="final")
    assert point.map_size == (4, 4)
    assert alignment_effect(pooled, point) < 1e-5
    with pytest.warns(UserWarning, match="alignment has no effect at 'final'"):
        attach(pooled, input_size=(3, 32, 32), feature_module="final")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attach(flat, input_size=(3, 32, 32), feature_module="features")


@pytest.mark.parametrize("variational", [False, True])
def test_what_is_published_is_the_plain_encoder(tmp_path: Path, variational: bool) -> None:
    """Weights and cost of inference are those of the plain classifier, and the registry builds it again."""
    model = Autoencoder(encoder(), (3, 32, 32), variational=variational, decoder_width=8).eval()
    assert ("classifier.deviation.weight" in dict(model.named_parameters())) == variational  # as in checkpoints
    plain = encoder()
    args = {name: value for name, value in NARROW.items() if name != "num_classes"}
    save_for_timm(model, tmp_path / "model", list("abcde"), DATA, args)
    described = json.loads((tmp_path / "model" / "config.json").read_text())
    assert described["architecture"] == "alignmix_encoder"
    restored = [load_for_timm(tmp_path / "model")]
    if reads_folders(timm.__version__):
        restored.append(timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True))
    for one in restored:
        one.eval()
        assert {name: value.shape for name, value in one.state_dict().items()} == {
            name: value.shape for name, value in plain.state_dict().items()
        }
        assert torch.equal(one(images(32)), model.net(images(32)))
    assert torch.allclose(model(images(32)).logits, model.net(images(32)), atol=1e-6)
    flops = []
    for one in (plain, model.net):
        with FlopCounterMode(display=False) as counter:
            one(images(32))
        flops.append(counter.get_total_flops())
    assert flops[0] == flops[1] > 0


@pytest.mark.slow
def test_an_encoder_is_checked_with_the_package_and_its_card_says_so(tmp_path: Path) -> None:
    args = {name: value for name, value in NARROW.items() if name != "num_classes"}
    save_for_timm(encoder(), tmp_path / "model", list("abcde"), DATA, args)
    assert "timm and alignmix_timm loads" in check_folder(tmp_path / "model")
    assert "import alignmix_timm" in str(make_card(tmp_path / "model", "user/name"))


@pytest.mark.skipif(not reads_folders(timm.__version__), reason="this timm cannot load folders")
def test_without_the_import_timm_says_that_the_architecture_is_unknown(tmp_path: Path) -> None:
    args = {name: value for name, value in NARROW.items() if name != "num_classes"}
    save_for_timm(encoder(), tmp_path / "model", list("abcde"), DATA, args)
    script = f"""
import timm
load = lambda: timm.create_model("local-dir:{tmp_path / "model"}", pretrained=True)
try:
    load()
except RuntimeError as error:
    print(error)
import alignmix_timm
print(type(load()).__name__)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.split("\n")[:2] == ["Unknown model (alignmix_encoder)", "Encoder"], done.stderr


def up_block(weights: dict[str, Tensor], name: str, feats: Tensor) -> Tensor:
    """BN, ReLU, double, 3 x 3, BN, ReLU, 3 x 3; shortcut: double, 1 x 1. Batch statistics."""

    def norm(values: Tensor, which: str) -> Tensor:
        mean, var = values.mean((0, 2, 3), keepdim=True), values.var((0, 2, 3), unbiased=False, keepdim=True)
        scale, shift = (weights[f"{name}.{which}.{kind}"].view(-1, 1, 1) for kind in ("weight", "bias"))
        return ((values - mean) / (var + 1e-5).sqrt() * scale + shift).clamp(min=0)

    def conv(values: Tensor, which: str, padding: int) -> Tensor:
        return F.conv2d(values, weights[f"{name}.{which}.weight"], weights[f"{name}.{which}.bias"], padding=padding)

    def double(values: Tensor) -> Tensor:
        return values.repeat_interleave(2, 2).repeat_interleave(2, 3)

    inner = conv(double(norm(feats, "norm1")), "conv1", 1)
    return conv(double(feats), "shortcut", 0) + conv(norm(inner, "norm2"), "conv2", 1)


@pytest.mark.parametrize(("size", "start", "blocks"), [(32, 4, 3), (64, 4, 4), (224, 7, 5)])
def test_decoder_is_the_residual_generator(size: int, start: int, blocks: int) -> None:
    torch.manual_seed(0)
    decoder = Decoder(embed_dim=10, image=(3, size, size), width=4)
    assert (decoder.shape, len(decoder.blocks)) == ((4, start, start), blocks)
    image = decoder(torch.randn(2, 10))
    assert image.shape == (2, 3, size, size)
    assert image.abs().max() <= 1
    feats = torch.randn(2, 4, start, start, dtype=torch.float64)
    expected = up_block(
        {f"b.{name}": value.double() for name, value in decoder.blocks[0].state_dict().items()}, "b", feats
    )
    assert torch.allclose(decoder.blocks[0](feats.float()).double(), expected, atol=1e-4)
    fully, last = 10 * 4 * start**2 + 4 * start**2, 4 * 3 * 9 + 3
    block = 2 * (4 * 4 * 9 + 4) + 4 * 4 + 4 + 4 * 4
    assert sum(parameter.numel() for parameter in decoder.parameters()) == fully + blocks * block + last + 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(embedding="pooled"), "embedding must be 'flatten' or 'tensor', got 'pooled'"),
        (dict(embedding="tensor", embed_dim=30), "embed_dim must be a multiple of the 2 x 2 positions"),
        (dict(embedding="tensor", grid=1), "embed_dim must be a multiple of the 0 x 0 positions"),
        (dict(grid=5), "grid must be at most the map of 'preact_resnet18', 4 x 4 at images of 32 x 32, got 5"),
        (dict(backbone="vgg11", backbone_args={}), "backbone 'vgg11'"),
        (dict(backbone="nothing", backbone_args={}), "backbone 'nothing' cannot be built"),
        (
            dict(backbone="test_vit", img_size=96, backbone_args={"patch_drop_rate": 0.5}),
            r"\('B', 19, 64\) in training mode and \('B', 37, 64\) in eval mode",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encoder(**options)


def test_other_refusals() -> None:
    with pytest.raises(ValueError, match=r"images to decode must be square, .* got 48 x 32"):
        Autoencoder(encoder(img_size=(48, 32)), (3, 48, 32))
    with pytest.raises(ValueError, match=r"images to decode must be square, .* got 36 x 36"):
        Decoder(8, (3, 36, 36))
    for options in (dict(), dict(embedding="tensor", grid=2)):
        with pytest.raises(ValueError, match="align_embedding needs an embedding with positions"):
            AlignMixModel(encoder(**options), input_size=(3, 32, 32), align_embedding=True, feature_module="features")
    with pytest.raises(ValueError, match=r"net must be an alignmix_timm.Encoder, got ResNet"):
        Autoencoder(timm.create_model("test_resnet"), (3, 32, 32))
    with pytest.raises(ValueError, match="mean and std must have one value, or one for each of 3 channels"):
        Autoencoder(encoder(), (3, 32, 32), mean=(0.5, 0.5), std=(0.5, 0.5))
    with pytest.raises(ValueError, match="layer_decay needs --embedding none"):
        TrainConfig(data="x", embedding="flatten", layer_decay=0.7).check()
    with pytest.raises(ValueError, match="kl_weight must be >= 0, got -1"):
        TrainConfig(data="x", kl_weight=-1.0).check()
    with pytest.raises(ValueError, match="method 'alignmix_ae' needs --embedding flatten or tensor"):
        TrainConfig(data="x", method="alignmix_ae").check()


def test_a_place_has_one_name_with_and_without_a_variational_encoder() -> None:
    for variational in (False, True):
        model = Autoencoder(encoder(), (3, 32, 32), variational=variational, feature_module="features.backbone.final")
        assert model.hooks.point.map_size == (4, 4)
        assert model.hooks.point.feature_module.removeprefix("net.") == "features.backbone.final"


def test_the_backbone_is_recomputed_and_its_tokens_do_not_decay() -> None:
    net = encoder(backbone="test_vit", img_size=96, backbone_args={}).train()
    assert "features.backbone.pos_embed" in net.no_weight_decay() & dict(net.named_parameters()).keys()
    gradients = []
    for enable in (False, True):
        net.zero_grad()
        net.set_grad_checkpointing(enable)
        assert net.features.backbone.grad_checkpointing is enable
        net(images(96)).sum().backward()
        gradients.append(net.features.backbone.patch_embed.proj.weight.grad.clone())
    assert torch.equal(*gradients)
