"""AlignMix on a timm model: a wrapper for Hugging Face style training, and a drop-in for ``timm.data.Mixup``."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn
from typing_extensions import Unpack

from .attaching import attach
from .functional import mix, mix_targets
from .hooks import AttachOptions
from .params import DrawOptions, MixParams, check_draw_options, check_no_clean, draw, process_index
from .targets import check_smoothing, dense_targets


class AlignMixOutput(NamedTuple):
    """What :class:`AlignMixModel` returns.

    Attributes:
        loss: Of the mixed batch in training, of the batch itself in eval; None without labels.
        logits: [B, C]; None from an autoencoder in mode ``clean``, which does not classify.
    """

    loss: Tensor | None
    logits: Tensor | None


class AlignMixModel(nn.Module):
    """A timm classifier that trains with AlignMix on batches of :class:`alignmix_timm.AlignMixCollator`.

    ``model(**batch)`` returns ``(loss, logits)``, as Accelerate and the Hugging Face Trainer expect. In eval mode it is
    the plain model. ``state_dict`` has the keys of the timm model.

    Args:
        model: Any timm classifier; it is hooked, not copied.
        criterion: ``criterion(logits, targets)`` with float targets [B, C]; default cross-entropy.
        label_smoothing: For class-index labels in training, in [0, 1).
        num_classes: Default ``model.num_classes``.
        **options: feature_module, input_size, epsilon, num_iters, cost_scale, align_size, max_positions, aligned,
            align_embedding:
            see :func:`alignmix_timm.attach`.

    Compile the network, not the wrapper: ``model.model.compile()``.

    Raises:
        ValueError: no usable mixing point, or an option outside its range.
    """

    def __init__(
        self,
        model: nn.Module,
        criterion: Callable[[Tensor, Tensor], Tensor] | None = None,
        *,
        label_smoothing: float = 0.0,
        num_classes: int | None = None,
        **options: Unpack[AttachOptions],
    ) -> None:
        super().__init__()
        self.model = model
        self.criterion = nn.CrossEntropyLoss() if criterion is None else criterion
        self.num_classes = _num_classes(model, num_classes)
        check_smoothing(label_smoothing)
        self.label_smoothing = label_smoothing
        self.hooks = attach(model, root=self, **options)
        self.register_state_dict_post_hook(_drop_prefix)
        self.register_load_state_dict_pre_hook(_add_prefix)

    def forward(
        self, pixel_values: Tensor, labels: Tensor | None = None, mix: MixParams | None = None
    ) -> AlignMixOutput:
        """Classify a batch; in training mode, mix it on the way as ``mix`` says.

        Args:
            pixel_values: Images, [B, C, H, W].
            labels: Class indices [B], or one-hot, soft or multi-label targets [B, C]; may be left out in eval mode.
            mix: Parameters from the collator or :func:`alignmix_timm.draw`; ignored in eval mode.

        Raises:
            ValueError: training without ``mix`` or labels; ``mix`` of another batch size; labels that do not fit.
            RuntimeError, FloatingPointError: as :meth:`MixingHooks.check`.
        """
        if not self.training:
            logits = self.model(pixel_values)
            targets = None if labels is None else dense_targets(labels, self.num_classes)
        else:
            logits, targets = self._mixed(pixel_values, labels, mix)
        return AlignMixOutput(None if targets is None else self.criterion(logits, targets), logits)

    def _mixed(self, images: Tensor, labels: Tensor | None, params: MixParams | None) -> tuple[Tensor, Tensor]:
        if params is None:
            raise ValueError(
                "training needs the mixing parameters of the batch: use AlignMixCollator as collate_fn, or pass "
                "mix=draw(batch_size, seed, step). To train unmixed, draw with prob=0."
            )
        check_no_clean([params.mode])
        if labels is None:
            reason = params.unlabelled or "pass labels=..., or call model.eval() for logits alone."
            raise ValueError(f"training needs labels, and the batch has none: {reason}")
        _check_size(params, images)
        params = params.to(images.device)
        targets = dense_targets(labels, self.num_classes, self.label_smoothing)
        if params.mode != "none":
            targets = mix_targets(targets, params.perm, params.lam)
        self.hooks.arm(params, image_size(images))
        try:
            logits = self.model(mix_images(images, params))
        except BaseException:
            self.hooks.disarm()  # a batch that failed must not be held against the next
            raise
        self.hooks.check()
        return logits, targets

    def detach(self) -> nn.Module:
        """Remove the hooks and return the plain timm model."""
        self.hooks.detach()
        return self.model


class AlignMixOptions(DrawOptions, AttachOptions, total=False):
    """The keyword options of :class:`AlignMix`."""


class AlignMix:
    """AlignMix where ``timm.data.Mixup`` stands in a training loop: ``x, y = mixup_fn(x, y)``, then ``model(x)``.

    Args:
        model: The timm model that the loop trains (unwrapped: before compile and DDP); it is hooked.
        num_classes: Default ``model.num_classes``.
        label_smoothing: For class-index labels, in [0, 1).
        seed: Seed of the run; batches are drawn from (seed, number of the call).
        **options: alpha, modes, weights, prob, per_example: see :func:`alignmix_timm.draw`; feature_module, input_size,
            epsilon, num_iters, cost_scale, align_size, max_positions, aligned,
            align_embedding: see :func:`alignmix_timm.attach`.

    Attributes:
        mixup_enabled: As in timm; set to False to train on unmixed, dense targets from then on (``--mixup-off-epoch``).
        step: Number of calls so far; save and set it to resume.

    Raises:
        ValueError: no usable mixing point, or an option outside its range.
    """

    def __init__(
        self,
        model: nn.Module,
        num_classes: int | None = None,
        label_smoothing: float = 0.0,
        seed: int = 0,
        **options: Unpack[AlignMixOptions],
    ) -> None:
        drawing: Any = {name: value for name, value in options.items() if name in DrawOptions.__annotations__}
        attaching: Any = {name: value for name, value in options.items() if name not in drawing}
        check_draw_options(**drawing)
        check_no_clean(drawing.get("modes", ()))
        self.num_classes = _num_classes(model, num_classes)
        check_smoothing(label_smoothing)
        self.label_smoothing, self.seed, self.options = label_smoothing, seed, drawing
        self.mixup_enabled = True
        self.step = 0
        self.hooks = attach(model, **attaching)

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Draw parameters, arm the hooks, and return the batch for the next ``model(images)``.

        Returns:
            The images (mixed in ``input`` mode) and the mixed targets, [B, C].

        Raises:
            RuntimeError: the previous batch never passed the hooks.
        """
        options: DrawOptions = self.options if self.mixup_enabled else {**self.options, "prob": 0.0}
        params = draw(len(images), self.seed, self.step, process_index(), **options).to(images.device)
        self.step += 1
        targets = dense_targets(labels, self.num_classes, self.label_smoothing)
        self.hooks.arm(params, image_size(images))
        if params.mode == "none":
            return images, targets
        return mix_images(images, params), mix_targets(targets, params.perm, params.lam)

    def detach(self) -> None:
        """Remove the hooks from the model."""
        self.hooks.detach()


def mix_images(images: Tensor, params: MixParams) -> Tensor:
    """The images, mixed if the mode is ``input``."""
    return mix(images, images[params.perm], params.lam) if params.mode == "input" else images


def image_size(images: Tensor) -> tuple[int, int, int]:
    """(C, H, W) of a batch; ValueError if it is none of images."""
    if images.ndim != 4:
        raise ValueError(f"images must be [B, C, H, W], got shape {tuple(images.shape)}.")
    return images.shape[1], images.shape[2], images.shape[3]


def _check_size(params: MixParams, images: Tensor) -> None:
    if len(params) != len(images):
        raise ValueError(
            f"mix was drawn for {len(params)} examples, the batch has {len(images)}. A batch must not be sliced after "
            "its parameters were drawn: with Accelerate use dispatch_batches=False and split_batches=False."
        )


def _num_classes(model: nn.Module, given: int | None) -> int:
    found: Any = getattr(model, "num_classes", None) if given is None else given
    if not isinstance(found, int) or found < 1:
        raise ValueError(f"num_classes must be >= 1, got {found}. Create the model with num_classes=..., or pass it.")
    return found


def _drop_prefix(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    """Save under the keys of the timm model, and nothing else."""
    for key in [key for key in state if key.startswith(prefix)]:
        value, name = state.pop(key), key.removeprefix(prefix)
        if name.startswith("model."):
            state[prefix + name.removeprefix("model.")] = value


def _add_prefix(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Load under the keys of the timm model; the criterion stays as it was built."""
    for key in [key for key in state if key.startswith(prefix)]:
        state[f"{prefix}model.{key.removeprefix(prefix)}"] = state.pop(key)
    if isinstance(criterion := getattr(module, "criterion", None), nn.Module):
        state.update(criterion.state_dict(prefix=f"{prefix}criterion."))
