"""A batch of train.py, mixed with timm's settings: probability, smoothing, CutMix in turns."""

import copy

import numpy as np
from timm.data import Mixup
from torch import Tensor

from ..functional import mix_targets
from ..hooks import MixingHooks
from ..model import image_size, mix_images
from ..params import MixParams, draw, process_index
from ..seeds import Stream, generator
from ..targets import dense_targets
from .options import Options


class BatchMixer:
    """Mixes images or arms the model to mix, and makes the soft targets.

    Everything is drawn for (seed, step, rank), so that the script's random numbers stay its own.

    Args:
        hooks: On the model.
        settings: The script's own ``Mixup`` or ``FastCollateMixup``; its ``mixup_enabled`` is heeded.
        options: ``--alignmix-*``.
        seed: Of the run.
    """

    def __init__(self, hooks: MixingHooks, settings: Mixup, options: Options, seed: int) -> None:
        self.hooks, self.settings, self.options, self.seed = hooks, settings, options, seed

    @property
    def prob(self) -> float:
        """Probability that the next batch is mixed."""
        return self.settings.mix_prob if self.settings.mixup_enabled else 0.0

    def __call__(self, images: Tensor, labels: Tensor, step: int) -> tuple[Tensor, Tensor, str]:
        """Mix one batch.

        Args:
            images: [B, C, H, W].
            labels: Class indices [B], or multi-label targets [B, C].
            step: Number of the batch in the run, >= 0.

        Returns:
            Images, soft targets [B, C], and what is done: a mode, or ``cutmix``.

        Raises:
            RuntimeError, FloatingPointError: the previous batch was not mixed as drawn.
        """
        options = self.options
        params = draw(
            len(images),
            self.seed,
            step,
            process_index(),
            alpha=options.alpha,
            modes=options.modes,
            prob=self.prob,
            per_example=options.lam == "example",
        )
        cut = params.mode != "none" and self._turn_of_cutmix(step)
        if cut:
            params = MixParams("none", params.lam, params.perm)
        if images.device.type == "cuda":
            params = params.pin_memory()
        params = params.to(images.device, non_blocking=True)
        self.hooks.arm(params, image_size(images))
        if cut:
            return *self._cutmix(images, labels, step), "cutmix"
        targets = self._targets(labels)
        if params.mode != "none":
            targets = mix_targets(targets, params.perm, params.lam)
        return mix_images(images, params), targets, params.mode

    def _turn_of_cutmix(self, step: int) -> bool:
        """The same in all processes."""
        choice = generator(self.seed, Stream.MIXER, step).random()
        return self.settings.cutmix_alpha > 0 and choice < self.settings.switch_prob

    def _cutmix(self, images: Tensor, labels: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """timm's own CutMix, which draws from numpy's global generator: given back as it was."""
        only_cutmix = copy.copy(self.settings)
        only_cutmix.mixup_alpha, only_cutmix.mix_prob = 0.0, 1.0
        state = np.random.get_state()
        np.random.seed(generator(self.seed, Stream.TIMM_MIXUP, step, process_index()).integers(2**32))
        try:
            return Mixup.__call__(only_cutmix, images, labels)
        finally:
            np.random.set_state(state)

    def _targets(self, labels: Tensor) -> Tensor:
        smoothing = self.settings.label_smoothing
        targets = dense_targets(labels, self.settings.num_classes, smoothing)
        if getattr(self.settings, "multi_label", False):  # timm smooths each label towards a half
            targets = targets * (1 - smoothing) + 0.5 * smoothing
        return targets
