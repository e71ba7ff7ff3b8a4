"""StyleMix and StyleCutMix: their equations with codecs that are known."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from style import Identity
from torch import Tensor, nn

from alignmix_timm import AlignMixModel, MixParams
from alignmix_timm.mixers import CutMix, Mixer, StyleCutMix, StyleMix, make_mixer
from alignmix_timm.mixers.style_codec import adain
from alignmix_timm.mixers.stylecutmix import class_distances
from alignmix_timm.mixers.stylemix import StyleMixer, coefficients
from alignmix_timm.params import Place

PERM = torch.tensor([2, 0, 3, 1])
EYE = torch.eye(4)
EACH = pytest.mark.parametrize("kind", [StyleMix, StyleCutMix])


class Linear(nn.Module):
    """1 x 1 convolutions there and back, trained to reconstruct."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.there, self.back = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 3, 1)
        optimizer = torch.optim.Adam(self.parameters(), 0.05)
        for _ in range(300):
            images = torch.randn(8, 3, 4, 4)
            loss = F.mse_loss(self.decode(self.encode(images)), images)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    def encode(self, images: Tensor) -> Tensor:
        return self.there(images)

    def decode(self, features: Tensor) -> Tensor:
        return self.back(features)


@pytest.fixture(scope="module")
def trained() -> Linear:
    return Linear()


def images(height: int = 12, width: int = 20, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(height)
    looks = 0.5 + torch.rand(2, 4, channels, 1, 1, generator=generator)
    return looks[0] + looks[1] * torch.randn(4, channels, height, width, generator=generator)


def given(name: str, lam: float | Tensor, perm: Tensor = PERM, **extra: float | Tensor) -> MixParams:
    """Parameters of four examples."""
    drawn = {key: torch.as_tensor(value, dtype=torch.float32).expand(4) for key, value in extra.items()}
    drawn |= {"place": torch.tensor([0.5, 0.5]).expand(4, 2)} if name == "stylecutmix" else {}
    return MixParams("input", torch.as_tensor(lam, dtype=torch.float32).expand(4), perm, mixer=name, extra=drawn)


def literal_adain(content: np.ndarray, style: np.ndarray) -> np.ndarray:
    """One image [D, h, w] in the style of another, channel by channel."""
    return np.stack(
        [
            (one - one.mean()) / np.sqrt(one.var(ddof=1) + 1e-5) * np.sqrt(look.var(ddof=1) + 1e-5) + look.mean()
            for one, look in zip(content, style, strict=True)
        ]
    )


def literal_mix(mixer: StyleMixer, batch: Tensor, params: MixParams) -> tuple[np.ndarray, np.ndarray]:
    """The equations of the paper, example by example in float64; images and the share of each in its targets."""
    mixed, shares = [], []
    pictures, drawn = batch.double(), {key: value.double().numpy() for key, value in params.extra.items()}
    codec = copy.deepcopy(mixer.codec)
    if isinstance(codec, nn.Module):
        codec.double()

    def decoded(features: np.ndarray) -> np.ndarray:
        return codec.decode(torch.from_numpy(features)[None])[0].detach().numpy()

    features = codec.encode(pictures).detach().numpy()
    for row, partner in enumerate(params.perm.tolist()):
        x, other = pictures[row].numpy(), pictures[partner].numpy()
        f, g = features[row], features[partner]
        lam, rs = float(params.lam[row]), drawn["style"][row]
        if mixer.name == "stylemix":
            low, high = max(0.0, lam + rs - 1), min(lam, rs)
            t = low + drawn["overlap"][row] * (high - low)
            mean = t * f + (1 - lam - rs + t) * g + (lam - t) * literal_adain(f, g) + (rs - t) * literal_adain(g, f)
            mixed.append(decoded(mean))
            shares.append(mixer.ratio * lam + (1 - mixer.ratio) * rs)
            continue
        gamma, (_, height, width) = drawn["gamma"][row], x.shape
        g12 = gamma * x + (1 - gamma) * decoded(literal_adain(f, g))
        g21 = gamma * other + (1 - gamma) * decoded(literal_adain(g, f))
        content = np.zeros((height, width))
        spans = []
        for place, size in zip(params.extra["place"][row].tolist(), (height, width), strict=True):
            side, middle = int(np.sqrt(lam) * size), int(place * size)
            spans.append(slice(max(middle - side // 2, 0), min(middle + (side + 1) // 2, size)))
        content[tuple(spans)] = 1
        t = np.maximum(0, content + rs - 1)
        mixed.append(t * x + (1 - content - rs + t) * other + (content - t) * g12 + (rs - t) * g21)
        area = content.mean()
        shares.append(mixer.ratio * area + (1 - mixer.ratio) * (gamma * area + (1 - gamma) * rs))
    return np.stack(mixed), np.array(shares)


@EACH
@pytest.mark.parametrize("codec", ["identity", "trained"])
@pytest.mark.parametrize("per_example", [False, True])
def test_images_and_targets_are_those_of_the_equations(
    kind: type[StyleMixer], codec: str, per_example: bool, trained: Linear
) -> None:
    one = Identity() if codec == "identity" else trained
    mixer = kind(codec=one, size=None, prob=1.0, per_example=per_example, ratio=0.6)
    for step in range(8):
        params = mixer.draw(4, Place(0, step))
        mixed = mixer.mix(images(), EYE, params, None)
        expected, shares = literal_mix(mixer, images(), params)
        assert np.allclose(mixed.images.numpy(), expected, atol=2e-5)
        assert not mixed.images.requires_grad
        rows = torch.from_numpy(shares).float()[:, None]
        assert torch.allclose(mixed.targets, rows * EYE + (1 - rows) * EYE[params.perm], atol=1e-6)
        assert ((shares >= 0) & (shares <= 1)).all()


def test_the_four_shares_are_not_negative_and_sum_to_one() -> None:
    values = torch.linspace(0, 1, 11)
    grid = torch.cartesian_prod(values, values, values)
    shares = torch.stack(coefficients(*grid.T))
    assert (shares >= 0).all()
    assert torch.allclose(shares.sum(0), torch.ones(len(grid)), atol=1e-6)
    assert torch.allclose(shares[0] + shares[2], grid[:, 0], atol=1e-6)  # own content
    assert torch.allclose(shares[0] + shares[3], grid[:, 1], atol=1e-6)  # own style


def test_adain_takes_over_mean_and_deviation() -> None:
    content, style = images(6, 7), images(9, 4)
    found = adain(content, style)
    assert torch.allclose(found.mean((2, 3)), style.mean((2, 3)), atol=1e-5)
    assert torch.allclose(found.std((2, 3)), style.std((2, 3)), atol=1e-3)
    assert torch.allclose(adain(content, content), content, atol=1e-5)
    one_position = adain(images(1, 1), images(2, 2))
    assert torch.allclose(one_position, images(2, 2).mean((2, 3), keepdim=True))


def test_own_content_and_style_is_the_decoded_image(trained: Linear) -> None:
    mixed = StyleMix(codec=trained, size=None).mix(images(), EYE, given("stylemix", 1, style=1, overlap=0.3), None)
    with torch.no_grad():
        assert torch.equal(mixed.images, trained.decode(trained.encode(images())))
    assert F.mse_loss(mixed.images, images()) < 1e-3  # it is trained
    assert torch.equal(mixed.targets, EYE)


def test_content_of_one_in_the_style_of_the_other(trained: Linear) -> None:
    """Own content, the partner's style: the partner's statistics, and one's own shapes."""
    mixer = StyleMix(codec=trained, size=None)
    found = mixer.mix(images(), EYE, given("stylemix", 1, style=0, overlap=0.5), None).images
    partner = images()[PERM]
    assert torch.allclose(found.mean((2, 3)), partner.mean((2, 3)), atol=0.02)
    pairs = zip(found[:, 0], images()[:, 0], strict=True)
    shapes = [torch.corrcoef(torch.stack((one.flatten(), own.flatten())))[0, 1] for one, own in pairs]
    assert min(shapes) > 0.7


@EACH
def test_an_image_mixed_with_itself_stays(kind: type[StyleMixer]) -> None:
    mixer = kind(codec=Identity(), size=None, prob=1.0)
    for step in range(4):
        params = mixer.draw(4, Place(0, step))
        alone = MixParams("input", params.lam, torch.arange(4), mixer.name, extra=params.extra)
        mixed = mixer.mix(images(), EYE, alone, None)
        assert torch.allclose(mixed.images, images(), atol=1e-5)
        assert torch.allclose(mixed.targets, EYE)


@pytest.mark.parametrize("style", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0])
def test_gamma_one_is_cutmix_whatever_the_style(style: float, lam: float, trained: Linear) -> None:
    """With the box for oneself, where CutMix has it for the partner."""
    params = given("stylecutmix", lam, style=style, gamma=1)
    found = StyleCutMix(codec=trained, size=None).mix(images(), EYE, params, None)
    swapped = MixParams("input", 1 - params.lam, PERM.argsort(), "cutmix", extra={"place": params.extra["place"]})
    expected = CutMix().mix(images(), EYE, swapped, None)
    assert torch.allclose(found.images, expected.images[PERM], atol=1e-6)
    assert torch.allclose(found.targets, expected.targets[PERM], atol=1e-6)


@EACH
def test_images_are_resized_for_the_codec_and_normalised_as_it_wants(kind: type[StyleMixer]) -> None:
    seen: list[Tensor] = []

    class Watching(Identity):
        def encode(self, images: Tensor) -> Tensor:
            seen.append(images)
            return images

    batch = images(32, 32)
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.3, 0.1]
    mixer = kind(codec=Watching(), size=224, mean=mean, std=std, prob=1.0)
    mixed = mixer.mix(batch, EYE, mixer.draw(4, Place(0, 0)), None)
    assert mixed.images.shape == batch.shape
    pixels = batch * torch.tensor(std)[:, None, None] + torch.tensor(mean)[:, None, None]
    assert torch.allclose(seen[0], F.interpolate(pixels, (224, 224), mode="bilinear"), atol=1e-6)
    there = given(mixer.name, 1, perm=torch.arange(4), style=1, **{"overlap": 0, "gamma": 1})
    back = F.interpolate(seen[0], (32, 32), mode="bilinear")
    back = (back - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    assert torch.allclose(mixer.mix(batch, EYE, there, None).images, back, atol=1e-5)
    kind(codec=Watching(), size=None, prob=1.0).mix(batch, EYE, mixer.draw(4, Place(0, 0)), None)
    assert torch.equal(seen[-1], batch)  # as they come


def test_gamma_by_the_distance_of_the_classes(tmp_path: Path, trained: Linear) -> None:
    matrix = class_distances(torch.tensor([[1.0, 1], [3, 1], [0, 5]]), torch.tensor([0, 0, 1]), 2)
    assert torch.allclose(matrix, torch.tensor([[0, 10.0], [10, 0]]))  # means (2, 1) and (0, 5)
    path = tmp_path / "distances"
    np.savetxt(path, matrix.numpy() / 10, delimiter=",")
    mixer = StyleCutMix(codec=trained, size=None, prob=1.0, distances=str(path), delta=2.0)
    params = mixer.draw(4, Place(0, 0))
    assert "gamma" not in params.extra
    targets = F.one_hot(torch.tensor([0, 0, 1, 0]), 2).float() * 0.9 + 0.05  # smoothed
    params = MixParams("input", params.lam, PERM, mixer.name, extra=params.extra)  # partners 2, 0, 3, 1
    gamma = torch.tensor([1.0, 2, 1, 2]).div(2).tanh()  # the same class is 2 apart
    fixed = MixParams("input", params.lam, PERM, mixer.name, extra={**params.extra, "gamma": gamma})
    expected = StyleCutMix(codec=trained, size=None).mix(images(), targets, fixed, None)
    found = mixer.mix(images(), targets, params, None)
    assert torch.allclose(found.images, expected.images, atol=1e-6)
    assert torch.allclose(found.targets, expected.targets)
    with pytest.raises(ValueError, match=r"distances must be between the 4 classes, got .* with 2"):
        mixer.mix(images(), EYE, params, None)


@EACH
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "codec must be given, or both encoder and decoder, got none of them. .* there is no style to mix"),
        ({"encoder": "a.pth"}, "codec must be given, or both encoder and decoder, got encoder"),
        ({"codec": Identity(), "decoder": "a.pth"}, "codec must not be given together with decoder"),
        ({"codec": 3}, "codec must be of type StyleCodec, got 3"),
        ({"encoder": "none.pth", "decoder": "none.pth"}, "encoder must be a file with weights, got none.pth: No such"),
        ({"codec": Identity(), "size": 0}, "size must be >= 1, or None, got 0"),
        ({"codec": Identity(), "ratio": 2}, r"ratio must be in \[0, 1\], got 2"),
        ({"codec": Identity(), "mean": [0.5]}, "mean and std must be given together"),
        ({"codec": Identity(), "alpha": -1}, "alpha must be > 0, got -1"),
    ],
)
def test_wrong_options_are_named(kind: type[Mixer], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"{kind.name}: {message}"):
        make_mixer(kind.name, **options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0,1\n1", "distances must be a text file of numbers with commas"),
        ("0,1,2\n1,0,2\n", r"distances must be a square matrix of numbers >= 0, got .* of shape \(2, 3\)"),
        ("0,-1\n-1,0\n", "square matrix of numbers >= 0"),
        ("0,nan\n1,0\n", "square matrix of numbers >= 0"),
        (None, "distances must be a text file"),
    ],
)
def test_wrong_distances_are_named(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "distances"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=message):
        StyleCutMix(codec=Identity(), distances=str(path))
    for name in ("delta", "gamma_alpha"):
        with pytest.raises(ValueError, match=f"{name} must be a finite number > 0, got 0"):
            StyleCutMix(codec=Identity(), **{name: 0})


@EACH
def test_a_codec_that_changes_the_size_is_named(kind: type[StyleMixer]) -> None:
    class Halving(Identity):
        def encode(self, images: Tensor) -> Tensor:
            return images[:, :, ::2, ::2]

    mixer = kind(codec=Halving(), size=None, prob=1.0)
    with pytest.raises(ValueError, match=r"of the size that it encodes, \(3, 12, 20\), got \(3, 6, 10\). Set size"):
        mixer.mix(images(), EYE, mixer.draw(4, Place(0, 0)), None)


@EACH
@pytest.mark.parametrize(
    ("encode", "got"),
    [
        (lambda images: images.flatten(1), r"a tensor of shape \(4, 720\)"),
        (lambda images: images[:1], r"a tensor of shape \(1, 3, 12, 20\)"),
        (lambda images: (images, images), "tuple"),
    ],
)
def test_a_codec_that_encodes_to_something_else_is_named(kind: type[StyleMixer], encode: Any, got: str) -> None:
    codec = Identity()
    object.__setattr__(codec, "encode", encode)
    mixer = kind(codec=codec, size=None, prob=1.0)
    with pytest.raises(ValueError, match=rf"codec must encode images to features \[4, D, h, w\], got {got}"):
        mixer.mix(images(), EYE, mixer.draw(4, Place(0, 0)), None)
    with pytest.raises(ValueError, match=r"images must be floating, got torch.uint8. Convert and normalise"):
        mixer.mix(images().byte(), EYE, mixer.draw(4, Place(0, 0)), None)


@EACH
def test_a_codec_is_frozen_and_follows_the_images(kind: type[StyleMixer]) -> None:
    """In eval mode: neither its statistics nor the random state change, and images do not depend on each other."""

    class Noisy(nn.Sequential):
        def encode(self, images: Tensor) -> Tensor:
            return self(images)

        def decode(self, features: Tensor) -> Tensor:
            return features

    codec = Noisy(nn.BatchNorm2d(3), nn.Dropout(0.5))
    mixer = kind(codec=codec, size=None, prob=1.0)
    state, params = torch.get_rng_state(), given(mixer.name, 0.3, style=0.2, overlap=0.5, gamma=0.4)
    found = mixer.mix(images(), EYE, params, None).images
    plain = kind(codec=Identity(), size=None).mix(images(), EYE, params, None).images
    assert torch.allclose(found, plain, atol=1e-3)
    assert codec[0].num_batches_tracked == 0
    assert torch.equal(state, torch.get_rng_state())
    features = mixer._encoded(images().to("meta"))
    assert features.device == codec[0].weight.device == torch.device("meta")


def test_the_codec_is_no_part_of_the_model(trained: Linear) -> None:
    net = timm.create_model("test_resnet", num_classes=4)
    plain = list(net.state_dict())
    model = AlignMixModel(net, mixer=StyleMix(codec=trained, size=None, prob=1.0), input_size=(3, 32, 32)).train()
    assert list(model.state_dict()) == plain
    assert len(list(model.parameters())) == len(list(net.parameters()))
    assert "codec" not in str(model.mixer)
    with torch.autocast("cpu", torch.bfloat16):
        output = model(images(32, 32), torch.arange(4), model.mixer.draw(4, Place(0, 0)))
    output.loss.backward()
    assert output.loss.isfinite()
    assert torch.allclose(output.targets.sum(1), torch.ones(4))
