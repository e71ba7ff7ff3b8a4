"""Which mixer takes an update, and its draw: AlignMix, or timm's Mixup and CutMix."""

from typing import Any

import torch
from timm.data import Mixup
from torch import Tensor

from .config import TrainConfig
from .params import MixParams, draw
from .seeds import Stream, generator, seed_all


class Mixing:
    """Mixes the micro-batches of a run, each as drawn for its place: (seed, update, micro-batch).

    Args:
        config: Options of the run.
        updates_per_epoch: To know when ``mix_off_epoch`` comes.
        num_classes: For timm's mixers, which make soft targets.
    """

    def __init__(self, config: TrainConfig, updates_per_epoch: int, num_classes: int) -> None:
        self.config, self.updates_per_epoch = config, updates_per_epoch
        clean = config.method != "alignmix" and "clean" not in config.modes
        self.modes: Any = [*config.modes, "clean"] if clean else config.modes
        alphas = {"mixup": dict(mixup_alpha=config.mixup_alpha), "cutmix": dict(mixup_alpha=0.0)}
        alphas["cutmix"]["cutmix_alpha"] = config.cutmix_alpha
        self._timm = {
            name: Mixup(**alphas[name], label_smoothing=config.smoothing, num_classes=num_classes)
            for name in config.mixers
            if name in alphas
        }

    @property
    def aligns(self) -> bool:
        """Whether features are aligned at all."""
        feature_modes = {"feat", "feat_swap"} & set(self.config.modes)
        return "alignmix" in self.config.mixers and self.config.mix_prob > 0 and bool(feature_modes)

    @property
    def within(self) -> bool:
        """Whether anything is ever mixed within the network, besides its images."""
        config = self.config
        mixes = "alignmix" in config.mixers and config.mix_prob > 0 and config.mix_off_epoch != 0
        return mixes and bool({"feat", "feat_swap", "embed"} & set(config.modes))

    def __call__(self, images: Tensor, labels: Tensor, step: int, micro: int) -> tuple[Tensor, Tensor, MixParams, str]:
        """Draw for this place; mix the batch where timm does that, else leave it to the model.

        Returns:
            Images and labels, with soft targets [B, C] if timm mixed them; the parameters for the model; and the name
            of what is done: a mode of AlignMix, mixup, cutmix, or none.
        """
        config, mixer = self.config, self._mixer(step)
        # Whether or not the update would mix.
        clean = "clean" in self.modes and draw(1, config.seed, step, modes=self.modes).mode == "clean"
        params = draw(
            len(images),
            config.seed,
            step,
            micro,
            alpha=config.alpha,
            modes=self.modes,
            prob=float(mixer == "alignmix" or clean),
            per_example=config.per_example,
        )
        if images.device.type == "cuda":
            params = params.pin_memory()
        params = params.to(images.device, non_blocking=True)
        if clean or mixer not in self._timm:
            return images, labels, params, params.mode
        seed_all(config.seed, Stream.TIMM_MIXUP, step, micro)
        images, labels = self._timm[mixer](images, labels)
        return images, labels, params, mixer

    def _mixer(self, step: int) -> str:
        """The same in all processes."""
        off = self.config.mix_off_epoch
        mixed, choice = generator(self.config.seed, Stream.MIXER, step).random(2)
        if mixed >= self.config.mix_prob or (off is not None and step >= off * self.updates_per_epoch):
            return "none"
        return self.config.mixers[int(choice * len(self.config.mixers))]


def mixed_accuracy(logits: Tensor, labels: Tensor, params: MixParams) -> Tensor:
    """Share of right answers, each target counted with its share of the mixed example."""
    predicted = logits.argmax(1)
    if labels.ndim == 2:
        return labels.gather(1, predicted[:, None]).mean()
    if params.mode == "none":
        return (predicted == labels).float().mean()
    first, second = (predicted == labels).float(), (predicted == labels[params.perm]).float()
    return torch.lerp(second, first, params.lam).mean()
