"""How a run mixes: its options, and the mixer that follows from them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from ..alignment import Alignment, Assignment
from ..mixers import MIXERS, CutMix, HookedNetwork, Mixed, Mixer, OneOf, make_mixer
from ..params import MODES, MixParams, Mode, Place, check_no_clean, draw, unmixed
from ..sinkhorn import CostScale
from .options import OptionGroup, option

Method = Literal["alignmix", "alignmix_ae", "alignmix_vae"]


@dataclass
class MixingOptions(OptionGroup):
    """What is mixed, where and how; the loss."""

    method: Method = option(
        "alignmix",
        "with an autoencoder, one more case beside the modes reconstructs clean images, whatever mix_prob",
        role="model",
    )
    mixers: list[str] = option(
        ["alignmix"], f"one is drawn for each optimizer step, as often as it stands here: {', '.join(MIXERS)}"
    )
    mixer_args: dict[str, Any] = option(
        {}, "more arguments of the mixers, as cutmix.alpha=1, before --mixup-alpha and the like"
    )
    mix_prob: float = option(1.0, "probability that a step mixes at all")
    mix_off_epoch: int | None = option(None, "mix no more from this epoch on")
    modes: list[Mode] = option(list(MODES), "AlignMix: modes to draw from; clean alone trains a plain autoencoder")
    alpha: float = option(2.0, "AlignMix: lam ~ Beta(alpha, alpha)")
    per_example: bool = option(True, "AlignMix: one lam for each example, or one for the batch")
    mixup_alpha: float = option(0.8, "mixup: lam ~ Beta(alpha, alpha)")
    cutmix_alpha: float = option(CutMix.alpha, "cutmix: share of the image that is left ~ Beta(alpha, alpha)")
    feature_module: str | None = option(None, "AlignMix: module to mix at; default the automatic choice")
    assignment: Assignment = option(
        "transport", "AlignMix: which of the partner's positions features are mixed with: none is the same position"
    )
    align_embedding: bool = option(False, "AlignMix: align the embedding, if it is a tensor")
    epsilon: float = option(Alignment.epsilon, "AlignMix: entropic regularisation")
    num_iters: int = option(Alignment.num_iters, "AlignMix: Sinkhorn iterations")
    cost_scale: CostScale = option("rms", "AlignMix: costs relative to their root mean square, or as they are")
    align_size: int | None = option(None, "AlignMix: align at this coarser resolution")
    max_positions: int = option(Alignment.max_positions, "AlignMix: align larger maps in blocks")
    smoothing: float = option(0.0, "label smoothing")
    reconstruction_weight: float = option(
        1.0, "autoencoder: factor of the squared error, mean over pixels and channels in [-1, 1]"
    )
    kl_weight: float | None = option(None, "alignmix_vae: share of the divergence; default 1 / (C * H * W)")
    decoder_width: int = option(128, "autoencoder: channels of the decoder", role="model")
    loss: Literal["ce", "bce", "bce_softmax"] = option(
        "ce",
        "cross-entropy; timm's binary cross-entropy; or that of the probabilities, as the code of some mixers has it",
    )
    bce_target_thresh: float | None = option(None, "bce: targets above this count as 1")

    def check(self) -> None:
        if self.method == "alignmix":
            check_no_clean(self.modes)
        if not self.mixers:
            raise ValueError("mixers must not be empty: use 'none' to train without mixing.")
        Alignment(self.epsilon, self.num_iters, self.cost_scale)
        drawn = self.drawn_mixers()
        if not self.reconstructs:
            check_no_clean([mode for mixer in drawn for mode in getattr(mixer, "modes", ())])

    def drawn_mixers(self) -> list[Mixer]:
        """The mixers, each once and with its options.

        Raises:
            ValueError: an unknown mixer or option, or a value outside its range.
        """
        own: dict[str, dict[str, Any]] = {
            "alignmix": dict(
                alpha=self.alpha, modes=self.all_modes, per_example=self.per_example, aligned=self.assignment != "none"
            ),
            "mixup": dict(alpha=self.mixup_alpha),
            "cutmix": dict(alpha=self.cutmix_alpha),
        }
        for name, value in self.mixer_args.items():
            mixer, dot, argument = name.partition(".")
            if not dot or mixer not in self.mixers:
                raise ValueError(
                    f"mixer_args must be MIXER.ARGUMENT=value of one of {', '.join(self.mixers)}, got {name!r}."
                )
            own.setdefault(mixer, {})[argument] = value
        return [make_mixer(name, **own.get(name, {})) for name in dict.fromkeys(self.mixers)]

    @property
    def reconstructs(self) -> bool:
        """Whether there is a decoder."""
        return self.method != "alignmix"

    @property
    def all_modes(self) -> list[Mode]:
        """The modes of AlignMix, with that of an autoencoder."""
        return [*self.modes, "clean"] if self.reconstructs and "clean" not in self.modes else self.modes


def build_mixer(options: MixingOptions, steps_per_epoch: int = 1) -> Mixer:
    """The mixers of a run, one of which is drawn for each optimizer step.

    Args:
        options: Of the run.
        steps_per_epoch: To know when ``mix_off_epoch`` comes.
    """
    until = None if options.mix_off_epoch is None else max(options.mix_off_epoch, 0) * steps_per_epoch
    mixers = options.drawn_mixers()
    shares = [options.mixers.count(mixer.name) for mixer in mixers]
    mixer = OneOf(mixers, shares, prob=options.mix_prob, until=until)
    return WithReconstruction(mixer, options.all_modes) if options.reconstructs else mixer


def aligns(options: MixingOptions) -> bool:
    """Whether features or embeddings are aligned, and mixed, at some time of a run."""
    mixer = build_mixer(options)
    embeds = options.align_embedding and "embed" in options.modes and "alignmix" in mixer.names
    moves = mixer.aligns or (embeds and options.mix_prob > 0 and options.mix_off_epoch != 0)
    return moves and options.assignment == "transport"


@dataclass(frozen=True)
class WithReconstruction(Mixer):
    """Reconstructs as often as AlignMix would draw ``clean`` among its modes, whatever mixes the other batches.

    Args:
        mixer: For the other batches.
        modes: Of AlignMix, ``clean`` among them.
    """

    name: ClassVar[str] = "with_reconstruction"

    mixer: Mixer
    modes: Sequence[Mode]

    @property
    def aligns(self) -> bool:
        """Whether some batch it draws is aligned."""
        return self.mixer.aligns

    @property
    def mixes_inside(self) -> bool:
        """Whether its mixer does."""
        return self.mixer.mixes_inside

    @property
    def feature_layers(self) -> tuple[str | int | None, ...]:
        """Those of its mixer."""
        return self.mixer.feature_layers

    @property
    def names(self) -> tuple[str, ...]:
        """Those of its mixer."""
        return self.mixer.names

    def draw(self, batch_size: int, place: Place) -> MixParams:
        """Draw whether to reconstruct, else let the mixer draw."""
        if draw(1, place.seed, place.step, modes=self.modes).mode == "clean":
            return unmixed(batch_size, "clean")
        return self.mixer.draw(batch_size, place)

    def mix(self, images: Tensor, targets: Tensor, params: MixParams, net: HookedNetwork) -> Mixed:
        """Mix by the mixer."""
        return self.mixer.mix(images, targets, params, net)


def mixed_accuracy(logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """Share of right answers, each class counted with its share of the mixed example, before label smoothing.

    Args:
        logits, targets: [B, C].
        smoothing: In the targets.
    """
    share = targets.gather(1, logits.argmax(1, keepdim=True)).mean()
    return (share - smoothing / targets.shape[1]) / (1 - smoothing)
