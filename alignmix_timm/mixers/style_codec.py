"""Images to features and back, and the exchange of style between features (Huang and Belongie, AdaIN).

https://arxiv.org/abs/1703.06868. The networks have the layout of https://github.com/naoto0804/pytorch-AdaIN, whose
weights, ``vgg_normalised.pth`` and ``decoder.pth``, are not part of this package.
"""

import functools
import hashlib
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

STYLE_LAYERS = (3, 10, 17, 30)  # relu1_1, relu2_1, relu3_1, relu4_1 of the encoder
ENCODER = (64, 64, "pool", 128, 128, "pool", 256, 256, 256, 256, "pool", 512)  # VGG-19 to relu4_1
DECODER = (256, "double", 256, 256, 256, 128, "double", 128, 64, "double", 64, 3)


@runtime_checkable
class StyleCodec(Protocol):
    """Images to features and back, on the device of what it gets."""

    def encode(self, images: Tensor) -> Tensor:
        """[B, C, H, W] fp32 to features [B, D, h, w]."""

    def decode(self, features: Tensor) -> Tensor:
        """Features to images of the size that was encoded."""


def moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over positions, [B, D, 1, 1] fp32; the variance is unbiased, plus 1e-5."""
    values = features.float()
    unbiased = values[0, 0].numel() > 1
    variance, mean = torch.var_mean(values, (2, 3), correction=int(unbiased), keepdim=True)
    return mean, (variance + 1e-5).sqrt()


def adain(content: Tensor, style: Tensor) -> Tensor:
    """Features of ``content`` with the mean and standard deviation of ``style`` in each channel (AdaIN eq. 8).

    Args:
        content, style: [B, D, h, w].

    Returns:
        [B, D, h, w] fp32.
    """
    (mean, deviation), (style_mean, style_deviation) = moments(content), moments(style)
    return (content.float() - mean) / deviation * style_deviation + style_mean


class AdaINCodec(nn.Module):
    """The encoder and decoder of AdaIN, frozen; images have three channels and sides, of 16 or more, that 8 divides."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 3, 1), *_layers(3, ENCODER))
        self.decoder = nn.Sequential(*_layers(512, DECODER)[:-1])  # no ReLU at the end
        self.eval().requires_grad_(False)

    def encode(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] to [B, 512, H / 8, W / 8].

        Raises:
            ValueError: images of another number of channels, or of sides below 16 or that 8 does not divide.
        """
        channels, height, width = images.shape[1:]
        if channels != 3 or height % 8 or width % 8 or min(height, width) < 16:
            raise ValueError(
                "AdaIN needs images of 3 channels and sides of at least 16 that 8 divides, got "
                f"{tuple(images.shape[1:])}. Set size."
            )
        encoded: Tensor = self.encoder.to(images.device)(images)
        return encoded

    def decode(self, features: Tensor) -> Tensor:
        """[B, 512, h, w] to [B, 3, 8 h, 8 w]."""
        decoded: Tensor = self.decoder.to(features.device)(features)
        return decoded

    def styles(self, images: Tensor) -> Tensor:
        """Mean and standard deviation of each channel at relu1_1, relu2_1, relu3_1 and relu4_1, [B, 1920].

        Args:
            images: As :meth:`encode` takes them.
        """
        found: list[Tensor] = []
        for number, layer in enumerate(self.encoder.to(images.device)):
            images = layer(images)
            if number in STYLE_LAYERS:
                found += moments(images)
        return torch.cat(found, 1).flatten(1)


@functools.lru_cache(maxsize=1)
def load_codec(encoder: str, encoder_sha256: str | None, decoder: str, decoder_sha256: str | None) -> AdaINCodec:
    """The codec with these weights, on the CPU; one is kept.

    Args:
        encoder: File with the weights of the normalised VGG-19, to relu4_1 or further.
        decoder: File with those of the decoder.
        encoder_sha256, decoder_sha256: Their checksums, in hexadecimal digits.

    Raises:
        ValueError: a file cannot be read, has another checksum, or holds weights of another layout.
    """
    codec = AdaINCodec()
    for name, path, checksum in (("encoder", encoder, encoder_sha256), ("decoder", decoder, decoder_sha256)):
        part = getattr(codec, name)
        weights = _weights(name, path, checksum)
        wanted = {key: value.shape for key, value in part.state_dict().items()}
        shapes = {key: getattr(value, "shape", None) for key, value in weights.items() if key in wanted}
        if shapes != wanted:
            raise ValueError(
                f"{name} must hold weights of the layout of pytorch-AdaIN, {', '.join(wanted)}, got {path} of another. "
                "Use vgg_normalised.pth for the encoder and decoder.pth for the decoder."
            )
        part.load_state_dict({key: weights[key] for key in wanted})
    return codec


def _weights(name: str, path: str, checksum: str | None) -> dict[str, Tensor]:
    """What is in a file, once its checksum was compared."""
    try:
        found = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise ValueError(f"{name} must be a file with weights, got {path}: {error.strerror}.") from error
    if checksum is None or found != checksum.lower():
        raise ValueError(
            f"{name}_sha256 must be the checksum of {path}, got {checksum}. That of the file is {found}: pass it if "
            "this is the file you mean."
        )
    try:
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # of many kinds: of pickle, of archives, of torch, and where there is no dict
        raise ValueError(f"{name} must be a file of torch.save with weights alone, got {path}.") from error


def _layers(channels: int, plan: tuple[int | str, ...]) -> list[nn.Module]:
    """3 x 3 convolutions with the border mirrored, of as many channels as the plan says, each with a ReLU."""
    layers: list[nn.Module] = []
    for step in plan:
        if step == "pool":
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
        elif step == "double":
            layers.append(nn.Upsample(scale_factor=2))
        else:
            layers += [nn.ReflectionPad2d(1), nn.Conv2d(channels, int(step), 3), nn.ReLU()]
            channels = int(step)
    return layers
