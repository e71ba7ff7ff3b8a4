"""StyleMix: content and style of two images, mixed apart (Hong et al., CVPR 2021, section 3.2)."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..functional import mix_targets
from ..params import MixParams
from .contract import HookedNetwork, Mixed, Mixer
from .pairs import PairMixer
from .pixels import check_normalisation, denormalised, normalised
from .style_codec import StyleCodec, adain, load_codec


def coefficients(content: Tensor, style: Tensor, overlap: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Shares of the four combinations of content and style: own and own, other and other, own and other, other and own.

    Args:
        content, style: Shares of the image itself, in [0, 1], [B].
        overlap: Where the share of own content in own style lies between the least and the largest that there can be,
            in [0, 1], [B].

    Returns:
        Four [B], >= 0, of sum 1.
    """
    least, most = (content + style - 1).clamp(min=0), torch.minimum(content, style)
    both = torch.lerp(least, most, overlap)
    return both, (1 - content - style + both).clamp(min=0), (content - both).clamp(min=0), (style - both).clamp(min=0)


def mix_styles(features: Tensor, perm: Tensor, content: Tensor, style: Tensor, overlap: Tensor) -> Tensor:
    """Mix features of images and their partners, as they are and in each other's style, by :func:`coefficients`.

    Args:
        features: [B, D, h, w].
        perm: Partner of each image, [B].
        content, style, overlap: [B].
    """
    own, other = features.float(), features[perm].float()
    parts = own, other, adain(own, other), adain(other, own)
    shares = coefficients(content, style, overlap)
    mixed = torch.zeros_like(own)
    for share, part in zip(shares, parts, strict=True):
        mixed += share[:, None, None, None] * part
    return mixed


@dataclass(frozen=True)
class _LeftOut:
    """Stands for the codec of a mixer that only draws."""

    def encode(self, images: Tensor) -> Tensor:
        raise RuntimeError(
            "mixer has no codec, for it came with a pickled collator or its batch and can only draw: give the model "
            "the mixer that the collator was made with."
        )

    decode = encode


@dataclass(frozen=True, kw_only=True)
class StyleMixer(PairMixer):
    """What StyleMix and StyleCutMix share: the codec, the size of its images, and how targets are weighted.

    Args:
        codec: Encodes images and decodes features, a module in eval mode; or give the files of AdaIN's weights.
        encoder, decoder: Those files, see :func:`alignmix_timm.mixers.style_codec.load_codec`.
        encoder_sha256, decoder_sha256: Their checksums.
        size: Images are resized to ``size`` by ``size`` pixels for the codec, and back; None leaves them as they are.
        mean, std: By which the images were normalised, one number for each channel. The codec then gets pixels in
            [0, 1], for which AdaIN was trained; without them it gets the images as they come, as in the released code.
        ratio: How much content counts in the targets, against style, in [0, 1].
        alpha, prob, per_example: See :class:`PairMixer`.

    Raises:
        ValueError: no codec, or files that are not what they are said to be; an option outside its range.
    """

    codec: StyleCodec | None = field(default=None, repr=False)
    encoder: str | None = None
    decoder: str | None = None
    encoder_sha256: str | None = None
    decoder_sha256: str | None = None
    size: int | None = 224
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    ratio: float = 0.7

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.ratio, Real) or not 0 <= self.ratio <= 1:
            raise ValueError(f"ratio must be in [0, 1], got {self.ratio!r}.")
        if self.size is not None and self.size < 1:
            raise ValueError(f"size must be >= 1, or None, got {self.size}.")
        check_normalisation(self.mean, self.std)
        files = [name for name in ("encoder", "decoder") if getattr(self, name) is not None]
        if self.codec is not None and files:
            raise ValueError(f"codec must not be given together with {' and '.join(files)}.")
        if self.codec is None and len(files) < 2:
            raise ValueError(
                f"codec must be given, or both encoder and decoder, got {' and '.join(files) or 'none of them'}. They "
                "are the files vgg_normalised.pth and decoder.pth of github.com/naoto0804/pytorch-AdaIN, with "
                "encoder_sha256 and decoder_sha256; without them there is no style to mix."
            )
        self._codec()

    def for_drawing(self) -> Mixer:
        """Without the codec that was given; files of weights are read by the process that mixes."""
        return self if self.codec is None else replace(self, codec=_LeftOut())

    def _codec(self) -> StyleCodec:
        if self.codec is not None or self.encoder is None or self.decoder is None:
            assert self.codec is not None
            return self.codec
        return load_codec(self.encoder, self.encoder_sha256, self.decoder, self.decoder_sha256)

    def _pixels(self, images: Tensor) -> Tensor:
        """Images as the codec gets them, fp32."""
        if not images.is_floating_point():
            raise ValueError(
                f"images must be floating, got {images.dtype}. Convert and normalise images before mixing."
            )
        pixels = images.float() if self.mean is None or self.std is None else denormalised(images, self.mean, self.std)
        if self.size is None or pixels.shape[2:] == (self.size, self.size):
            return pixels
        return F.interpolate(pixels, (self.size, self.size), mode="bilinear")

    def _encoded(self, pixels: Tensor) -> Tensor:
        """Features of the pixels, by a codec that is no part of the model, and so was neither moved nor frozen."""
        codec = self._codec()
        if isinstance(codec, nn.Module):
            codec.to(pixels.device).eval()
        features: object = codec.encode(pixels)
        if not isinstance(features, Tensor) or features.ndim != 4 or len(features) != len(pixels):
            kind = type(features).__name__
            got = f"a tensor of shape {tuple(features.shape)}" if isinstance(features, Tensor) else kind
            raise ValueError(f"codec must encode images to features [{len(pixels)}, D, h, w], got {got}.")
        return features

    def _decoded(self, features: Tensor, pixels: Tensor) -> Tensor:
        """Decoded features, which must be like the pixels that were encoded."""
        decoded = self._codec().decode(features).float()
        if decoded.shape != pixels.shape:
            raise ValueError(
                f"codec must decode images of the size that it encodes, {tuple(pixels.shape[1:])}, got "
                f"{tuple(decoded.shape[1:])}. Set size to one that it keeps."
            )
        return decoded

    def _images(self, pixels: Tensor, images: Tensor) -> Tensor:
        """Pixels as the network gets them: the size, normalisation, dtype and memory format of the images."""
        if pixels.shape != images.shape:
            pixels = F.interpolate(pixels, images.shape[2:], mode="bilinear")
        if self.mean is not None and self.std is not None:
            pixels = normalised(pixels, self.mean, self.std)
        return torch.empty_like(images).copy_(pixels)


@dataclass(frozen=True, kw_only=True)
class StyleMix(StyleMixer):
    """Mixes what two images show and how they look apart: shares of content and of style are drawn independently.

    Features of a frozen encoder, as they are and with each other's mean and standard deviation (AdaIN), are averaged
    and decoded to one image. Targets have the share ``ratio * content + (1 - ratio) * style``, to which the two terms
    of the paper's loss add up.

    Defaults are those of the authors' code for CIFAR (their ``alpha1``, ``prob``, ``r``), the only data it was written
    for; the AlignMix paper trains with ``alpha=2``. It needs a codec: AdaIN's weights are files that you bring.

    A mixed batch costs one pass of the VGG-19 encoder and one of the decoder at ``size`` pixels, without gradients,
    which for small images is more than the step itself. Mixed images have passed the codec and others have not, which
    a network can see. It goes with every network, but needs images of three channels with AdaIN's weights.

    Args:
        alpha: Shares of content and of style ~ Beta(alpha, alpha) each.
        others: See :class:`StyleMixer`.

    Raises:
        ValueError: see :class:`StyleMixer`.
    """

    name: ClassVar[str] = "stylemix"

    alpha: float = 0.5
    prob: float = 0.2

    def _draw_extra(self, rng: np.random.Generator, batch_size: int, count: int) -> dict[str, np.ndarray]:
        """The share of the style, where lam is that of the content, and how they overlap."""
        return {"style": rng.beta(self.alpha, self.alpha, count), "overlap": rng.random(count)}

    @torch.no_grad()
    def mix(self, images: Tensor, targets: Tensor, params: MixParams, net: HookedNetwork) -> Mixed:
        """Encode, mix, decode; mix the targets."""
        pixels, (style, overlap) = self._pixels(images), (params.extra[name] for name in ("style", "overlap"))
        features = self._encoded(pixels)
        mixed = self._decoded(mix_styles(features, params.perm, params.lam, style, overlap), pixels)
        lam = torch.lerp(style, params.lam, self.ratio)
        return Mixed(self._images(mixed, images), mix_targets(targets, params.perm, lam))
