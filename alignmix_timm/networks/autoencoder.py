"""AlignMix/AE and AlignMix/VAE: an encoder that also learns to reconstruct clean images.

AlignMix, section 4.1, Algorithm 1 and ablation C.1. A fifth mode, ``clean``, trains encoder and decoder by the
reconstruction loss and leaves the classifier out; the other four are as in AlignMix and leave the decoder out. What a
mode leaves out gets no gradient (None, not zero), so optimizers do not move it. The decoder is for training and
pictures only: the classifier that is published and evaluated is the plain encoder.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from ..attaching import AttachOptions
from ..hooks import MixingHooks
from ..mixers import MixDraw, Mixer, drawn, image_size
from ..mixers.pixels import check_normalisation
from ..model import AlignMixModel, AlignMixOutput
from ..params import MixParams
from ..timm_interface import TimmInterface
from .decoder import Decoder
from .encoder import Encoder


class VariationalEncoder(nn.Module):
    """An encoder whose embedding, in training, is a normal distribution around the plain embedding.

    Its mean and standard deviation are mixed (and, if tensors, aligned by one plan); the classifier reads a sample in
    training (Kingma and Welling), and the mean in eval, where the model is the plain encoder. The paper does not say
    what its classifier reads.
    """

    def __init__(self, net: Encoder) -> None:
        super().__init__()
        self.net = net
        f = net.embed
        self.deviation = nn.Conv2d(f.in_channels, f.out_channels, f.kernel_size, f.stride)  # type: ignore[arg-type]
        self.sample = Sample()

    @property
    def num_classes(self) -> int:
        """Of the encoder."""
        return self.net.num_classes

    def statistics(self, feats: Tensor) -> Tensor:
        """Mean and standard deviation of the embedding of feature tensors, [B, 2 * channels, side, side], fp32."""
        return torch.cat([self.net.embed(feats).float(), (self.deviation(feats).float() / 2).exp()], 1)

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W] to logits [B, num_classes]."""
        return self.net.classify(self.sample(self.statistics(self.net.features(images))))

    def get_classifier(self) -> nn.Module:
        """The module whose input is mixed in mode ``embed``."""
        return self.sample


class Sample(nn.Module):
    """Mean and standard deviation [B, 2 * channels, ...] to a sample in training, to the mean in eval."""

    def forward(self, statistics: Tensor) -> Tensor:
        """[B, channels, ...]; gradients reach both halves."""
        mean, std = statistics.chunk(2, 1)
        return mean + std * torch.randn_like(std) if self.training else mean


class Autoencoder(TimmInterface):
    """AlignMix/AE or AlignMix/VAE: drop-in replacement for :class:`alignmix_timm.AlignMixModel`, with mode ``clean``.

    Reconstruction loss: mean over pixels and channels of the squared difference, on images in [-1, 1] (the paper's is
    the sum: weight ``C * H * W``). The VAE adds the Kullback-Leibler divergence from the standard normal distribution.

    Args:
        net: The encoder that is trained.
        image: (C, S, S) of the images.
        variational: AlignMix/VAE.
        decoder_width: Channels of the decoder.
        reconstruction_weight: Factor of the loss of mode ``clean``.
        kl_weight: Share of the divergence in it; None is ``1 / (C * S * S)``, the evidence lower bound of a normal
            likelihood. The paper gives none.
        mean, std: With which images were normalised, for each channel, to compare them in [-1, 1].
        criterion, mixer, label_smoothing: As in :class:`alignmix_timm.AlignMixModel`.
        **options: As in :func:`alignmix_timm.attach`.

    Under DDP, pass ``find_unused_parameters=True``. Draw modes with ``draw(..., modes=(*MODES, "clean"))``.

    Raises:
        ValueError: a net without embedding; images that the decoder cannot make; as
            :class:`alignmix_timm.AlignMixModel`.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        net: Encoder,
        image: tuple[int, int, int],
        *,
        variational: bool = False,
        decoder_width: int = 128,
        reconstruction_weight: float = 1.0,
        kl_weight: float | None = None,
        mean: Sequence[float] = (0.5,),
        std: Sequence[float] = (0.5,),
        criterion: Callable[[Tensor, Tensor], Tensor] | None = None,
        mixer: Mixer | None = None,
        label_smoothing: float = 0.0,
        **options: Unpack[AttachOptions],
    ) -> None:
        super().__init__()
        if not isinstance(net, Encoder):
            raise ValueError(f"net must be an alignmix_timm.Encoder, got {type(net).__name__}.")
        statistics = check_normalisation(mean, std) or ((), ())
        if len(statistics[0]) not in (1, image[0]):
            raise ValueError(
                f"mean and std must have one value, or one for each of {image[0]} channels, got {mean} and {std}."
            )
        self.variational = variational
        options = {**options, "input_size": image}
        place = options.get("feature_module")
        if variational and isinstance(place, str):
            options["feature_module"] = f"net.{place}"
        network = VariationalEncoder(net) if variational else net
        self.classifier = AlignMixModel(
            network, criterion, mixer=mixer, label_smoothing=label_smoothing, mean=mean, std=std, **options
        )
        self.decoder = Decoder(net.num_features, image, decoder_width)
        self.reconstruction_weight = reconstruction_weight
        self.kl_weight = 1 / (image[0] * image[1] * image[2]) if kl_weight is None else kl_weight
        self.register_buffer("mean", torch.tensor(statistics[0]).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(statistics[1]).view(-1, 1, 1), persistent=False)

    @property
    def net(self) -> Encoder:
        """The encoder: the plain classifier."""
        model: Any = self.classifier.model
        return model.net if self.variational else model

    @property
    def _network(self) -> Encoder:
        """The encoder, for timm's tools."""
        return self.net

    @property
    def hooks(self) -> MixingHooks:
        """The hooks on the encoder."""
        return self.classifier.hooks

    def forward(
        self, pixel_values: Tensor, labels: Tensor | None = None, mix: MixDraw | MixParams | None = None
    ) -> AlignMixOutput:
        """As :meth:`AlignMixModel.forward`; in mode ``clean`` the loss is the reconstruction's, and logits are None."""
        self._check_modes()
        pixel_values = self.classifier.as_floats(pixel_values)
        if not self.training or mix is None or mix.mode != "clean":
            return self.classifier(pixel_values, labels, mix)
        self.hooks.arm(drawn(mix), image_size(pixel_values))
        embedding, divergence = self._embed(self.net.features(pixel_values))
        self.hooks.check()
        difference = self.decoder(embedding) - self.rescale(pixel_values)
        loss = self.reconstruction_weight * (difference.square().mean() + self.kl_weight * divergence)
        return AlignMixOutput(loss=loss)

    def _check_modes(self) -> None:
        """The autoencoder's training mode decides; RuntimeError where parts of it disagree while gradients flow."""
        unmixed = self.net.training and not self.training
        if torch.is_grad_enabled() and (unmixed or self.classifier.training != self.training):
            raise RuntimeError(
                f"Autoencoder has training={self.training}, its classifier {self.classifier.training}, and the network "
                f"in it {self.net.training}: call train() or eval() of the Autoencoder, or use torch.no_grad()."
            )

    def rescale(self, pixel_values: Tensor) -> Tensor:
        """Normalised images as the decoder makes them, in [-1, 1]."""
        return (pixel_values * self.std + self.mean) * 2 - 1

    def decode(self, feats: Tensor) -> Tensor:
        """Feature tensors A, mixed or not, to images in [-1, 1]; from the mean, if variational."""
        return self.decoder(self.net.forward_head(feats, pre_logits=True))

    def _embed(self, feats: Tensor) -> tuple[Tensor, Tensor | float]:
        """The embedding [B, embed_dim], and its divergence from the standard normal, mean over examples."""
        if not self.variational:
            return self.net.forward_head(feats, pre_logits=True), 0.0
        network: Any = self.classifier.model
        statistics = network.statistics(feats)
        mean, std = statistics.chunk(2, 1)
        divergence = (mean.square() + std.square() - 1) / 2 - std.log()
        return network.sample(statistics).flatten(1), divergence.flatten(1).sum(1).mean()
