"""A timm model that mixes its training batches, for Accelerate, the Hugging Face Trainer, or a loop; and its output."""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from typing_extensions import Unpack

from .attaching import AttachOptions, attach
from .mixers import AlignMixup, MixDraw, Mixed, Mixer, drawn, mix_batch
from .mixers.option_names import check_option_names
from .mixers.pixels import check_normalisation
from .params import MixParams
from .points.normalization import normalize, statistics_of
from .targets import DenseCrossEntropy, check_criterion, check_num_classes, check_smoothing, dense_loss, dense_targets
from .timm_interface import TransparentWrapper

_NAMES = ("loss", "logits", "targets")


class AlignMixOutput(OrderedDict[str, Tensor]):
    """Loss, logits and targets: by attribute, by name, or by index in this order; what is absent is left out.

    Like transformers' ``ModelOutput`` it is a dictionary: iterate over ``to_tuple()``. In eval mode without labels it
    holds the logits alone, so that the Hugging Face Trainer can predict.

    Attributes:
        loss: Of the mixed batch in training, of the batch itself in eval; None without labels.
        logits: [B, C]; None from an autoencoder in mode ``clean``, which does not classify.
        targets: The dense targets that belong to the logits, mixed as they are, [B, C]: for a loss outside the wrapper.
            In training only; None without labels.
    """

    def __init__(self, items: Mapping[str, Tensor] | Any = (), **named: Tensor | None) -> None:
        super().__init__(items)
        self.update({name: value for name, value in named.items() if value is not None})

    def __getattr__(self, name: str) -> Any:
        if name in _NAMES:
            return self.get(name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __setattr__(self, name: str, value: Tensor) -> None:
        getattr(self, name)  # AttributeError, if there is none of this name
        self[name] = value

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(key) if isinstance(key, str) else self.to_tuple()[key]

    def to_tuple(self) -> tuple[Tensor, ...]:
        """What is there, in the order loss, logits, targets."""
        return tuple(self[name] for name in _NAMES if name in self)


def _flatten(output: AlignMixOutput) -> tuple[list[Tensor], list[str]]:
    return list(output.values()), list(output)


def _unflatten(values: Any, names: Any) -> AlignMixOutput:
    return AlignMixOutput(zip(names, values, strict=True))


# DDP and FSDP2 look for the tensors of an output by this registry; FSDP1 rebuilds ordered dictionaries by their class.
pytree.register_pytree_node(
    AlignMixOutput, _flatten, _unflatten, serialized_type_name=f"{AlignMixOutput.__module__}.{AlignMixOutput.__name__}"
)


class AlignMixModel(TransparentWrapper):
    """A timm classifier that trains with AlignMix on batches of :class:`alignmix_timm.AlignMixCollator`.

    ``model(**batch)`` returns loss, logits and, in training, the targets that belong to the logits. In eval mode it is
    the plain model. ``state_dict`` has the keys of the timm model, and the parts have their names: PEFT and
    ``torch.distributed.checkpoint`` find them. timm's tools take it for the network: ``create_optimizer_v2(model,
    ...)`` makes the same groups of parameters, ``resolve_data_config`` finds its config.

    Args:
        model: Any timm classifier; it is hooked, not copied.
        criterion: ``criterion(logits, targets)`` with float targets [B, C]; default cross-entropy, with
            one class binary cross-entropy. Its own parameters are trained, and not saved.
        mixer: How batches are mixed, the same as the collator's; default AlignMix.
        label_smoothing: For class-index labels in training, in [0, 1).
        num_classes: Default ``model.num_classes``, also after ``reset_classifier``.
        mean, std: Of each channel, or one for all, for pixels in [0, 1]: images that come as bytes are normalised by
            them, on the device; default those of the model's ``pretrained_cfg``.
        **options: feature_module, input_size, classifier: see :func:`alignmix_timm.attach`; epsilon, num_iters,
            cost_scale, align_size, max_positions, assignment, align_embedding: see :class:`alignmix_timm.Alignment`.

    Compile the network, not the wrapper: ``model.model.compile()``.

    Raises:
        ValueError: no usable mixing point, or an option outside its range.
        TypeError: an unknown option.
    """

    def __init__(
        self,
        model: nn.Module,
        criterion: Callable[[Tensor, Tensor], Tensor] | None = None,
        *,
        mixer: Mixer | None = None,
        label_smoothing: float = 0.0,
        num_classes: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        **options: Unpack[AttachOptions],
    ) -> None:
        super().__init__(model, DenseCrossEntropy() if criterion is None else criterion)
        self.mixer = AlignMixup() if mixer is None else mixer
        self._num_classes = num_classes
        self.statistics = check_normalisation(mean, std)
        check_option_names(options, AttachOptions.__annotations__)
        check_criterion(criterion, check_num_classes(model, num_classes))
        check_smoothing(label_smoothing)
        self.label_smoothing = label_smoothing
        self.hooks = attach(model, root=self, layers=self.mixer.feature_layers, **options)

    @property
    def num_classes(self) -> int:
        """The number of classes that was given, or that the network has now."""
        return check_num_classes(self.model, self._num_classes)

    def forward(
        self, pixel_values: Tensor, labels: Tensor | None = None, mix: MixDraw | MixParams | None = None
    ) -> AlignMixOutput:
        """Classify a batch; in training mode, mix it on the way as ``mix`` says.

        The wrapper's training mode decides: under a wrapper in training mode, a frozen network in eval mode mixes too.

        Args:
            pixel_values: Images, [B, C, H, W]: normalised floats, or bytes (uint8), which are normalised here.
            labels: Class indices [B], or one-hot, soft or multi-label targets [B, C]; may be left out in eval mode.
            mix: From the collator, ``mixer.draw`` or :func:`alignmix_timm.draw`; ignored in eval mode.

        Raises:
            ValueError: training without ``mix`` or labels; ``mix`` of another batch size or mixer; labels that do not
                fit; a criterion of class indices; bytes of a network without known mean and standard deviation.
            RuntimeError, FloatingPointError: as :meth:`MixingHooks.check`, and as :meth:`MixingHooks.check_modes`.
        """
        pixel_values = self.as_floats(pixel_values)
        if not self.training:
            self.hooks.check_modes()
            logits = self._classify(pixel_values)
            targets = None if labels is None else dense_targets(labels, self.num_classes)
            loss = None if targets is None else dense_loss(self.criterion, logits, targets)
            return AlignMixOutput(loss=loss, logits=logits)
        mixed, logits = self._mixed(pixel_values, labels, mix)
        loss = dense_loss(self.criterion, logits, mixed.targets)
        loss = loss if mixed.extra_loss is None else loss + mixed.extra_loss
        return AlignMixOutput(loss=loss, logits=logits, targets=mixed.targets)

    def as_floats(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W] as the network reads them: bytes are normalised, others are returned as they are."""
        if images.dtype != torch.uint8:
            return images
        known = self.statistics or statistics_of(self.model, images.shape[1])
        if known is None or len(known[0]) not in (1, images.shape[1]):
            raise ValueError(
                f"images of bytes (uint8) with {images.shape[1]} channels need mean and standard deviation of each, "
                f"known are {known}: pass mean=... and std=... to {type(self).__name__}, or normalised floats."
            )
        return normalize(images, *known)

    def _classify(self, images: Tensor) -> Tensor:
        output = self.model(images)
        return getattr(output, "logits", output)  # models of transformers return them by name

    def _mixed(self, images: Tensor, labels: Tensor | None, mix: MixDraw | MixParams | None) -> tuple[Mixed, Tensor]:
        if mix is None:
            raise ValueError(
                "training needs the mixing parameters of the batch: use AlignMixCollator as collate_fn, or pass "
                "mix=draw(batch_size, seed, step). To train unmixed, draw with prob=0."
            )
        if labels is None:
            reason = mix.unlabelled or (
                "pass labels=..., or call model.eval() for logits alone. The Hugging Face Trainer takes them out of "
                "the batch for label_smoothing_factor and compute_loss_func: use label_smoothing and criterion of "
                "AlignMixModel instead."
            )
            raise ValueError(f"training needs labels, and the batch has none: {reason}")
        params = drawn(mix)
        try:
            mixed = mix_batch(self.mixer, images, labels, params, self.hooks, self.num_classes, self.label_smoothing)
            logits = self._classify(mixed.images)
        except BaseException:
            self.hooks.disarm()  # a batch that failed must not be held against the next
            raise
        self.hooks.check()
        return mixed, logits

    def detach(self) -> nn.Module:
        """Remove the hooks and return the plain timm model."""
        self.hooks.detach()
        return self.model
