"""A drop-in replacement for ``timm.data.Mixup``: AlignMix, or any other mixer, in a loop of timm's parts."""

import logging
from typing import Any

from torch import Tensor, nn
from typing_extensions import Unpack

from .attaching import AttachOptions, attach
from .mixers import Mixer, NoMixing, drawn_by, mix_batch
from .mixers.option_names import check_option_names
from .params import DrawOptions, MixParams, Place, check_no_clean, process_index
from .targets import check_num_classes, check_smoothing

_logger = logging.getLogger(__name__)


class AlignMixOptions(DrawOptions, AttachOptions, total=False):
    """The keyword options of :class:`AlignMix`."""


class AlignMix:
    """Drop-in replacement for ``timm.data.Mixup`` in a training loop: ``x, y = mixup_fn(x, y)``, then ``model(x)``.

    Only this model mixes: another that gets the same images, such as the teacher in distillation, sees them unmixed in
    the modes ``embed``, ``feat`` and ``feat_swap``. Pass its probabilities for the images as the labels, and they are
    mixed like these: ``x, y = mixup_fn(x, teacher(x).softmax(1))``. Or mix images alone: ``modes=["input"]``.

    Args:
        model: The timm model that the loop trains (unwrapped: before compile and DDP); it is hooked.
        num_classes: Default ``model.num_classes``, also after ``reset_classifier``. With one class, train by binary
            cross-entropy: the cross-entropy of one class is 0.
        label_smoothing: For class-index labels, in [0, 1).
        seed: Seed of the run; batches are drawn from (seed, number of the call).
        mixer: How batches are mixed; default AlignMix with the options below.
        **options: alpha, modes, weights, prob, per_example: see :func:`alignmix_timm.draw`; feature_module, input_size,
            classifier: see :func:`alignmix_timm.attach`; epsilon, num_iters, cost_scale, align_size, max_positions,
            assignment, align_embedding: see :class:`alignmix_timm.Alignment`.

    Attributes:
        mixup_enabled: As in timm; set to False to train on unmixed, dense targets from then on (``--mixup-off-epoch``).
        step: Number of calls so far; save and set it to resume. ``mixup_fn.step -= 1`` repeats the last draw, for
            another forward pass of the same unmixed batch, as in SAM.
        params: What was drawn for the last batch: ``mode``, ``lam``, ``perm``, on the CPU; None before the first.
        last: What was done with the last batch, in a word: a mode of AlignMix, or the name of another mixer.

    Raises:
        ValueError: no usable mixing point; an option outside its range, or one for drawing beside a mixer.
        TypeError: an unknown option.
    """

    def __init__(
        self,
        model: nn.Module,
        num_classes: int | None = None,
        label_smoothing: float = 0.0,
        seed: int = 0,
        mixer: Mixer | None = None,
        **options: Unpack[AlignMixOptions],
    ) -> None:
        check_option_names(options, AlignMixOptions.__annotations__)
        drawing: Any = {name: value for name, value in options.items() if name in DrawOptions.__annotations__}
        attaching: Any = {name: value for name, value in options.items() if name not in drawing}
        check_no_clean(drawing.get("modes", ()))
        self.mixer = drawn_by(mixer, drawing)
        self._num_classes = num_classes
        check_num_classes(model, num_classes)
        check_smoothing(label_smoothing)
        self.label_smoothing, self.seed = label_smoothing, seed
        self.mixup_enabled = True
        self.step = 0
        self.last = "none"
        self.params: MixParams | None = None
        self.hooks = attach(model, layers=self.mixer.feature_layers, **attaching)
        if self.mixer.mixes_inside:
            _logger.info(
                "Batches are mixed inside the model: a teacher of the same images would see them unmixed. For "
                "distillation pass its probabilities as the labels, or use modes=['input']."
            )

    @property
    def num_classes(self) -> int:
        """The number of classes that was given, or that the model has now."""
        return check_num_classes(self.hooks.model, self._num_classes)

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Draw parameters, arm the hooks, and return the batch for the next ``model(images)``.

        Returns:
            The images, mixed where the mode or the mixer mixes images, and the mixed targets, [B, num_classes].

        Raises:
            RuntimeError: the previous batch never passed the hooks.
            ValueError: as :func:`alignmix_timm.mixers.mix_batch`; the mixer adds to the loss, which is not seen here.
        """
        mixer = self.mixer if self.mixup_enabled else NoMixing()
        params = mixer.draw(len(images), Place(self.seed, self.step, process_index()))
        self.step, self.last, self.params = self.step + 1, params.label, params
        mixed = mix_batch(mixer, images, labels, params, self.hooks, self.num_classes, self.label_smoothing)
        if mixed.extra_loss is not None:
            self.hooks.disarm()
            raise ValueError(f"mixer {self.mixer.name} adds to the loss: use AlignMixModel, whose loss holds it.")
        return mixed.images, mixed.targets

    def detach(self) -> None:
        """Remove the hooks from the model."""
        self.hooks.detach()
