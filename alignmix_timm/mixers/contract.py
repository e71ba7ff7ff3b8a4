"""What every way of mixing is: options without state, that draw on the CPU and mix on the device.

A mixer is a frozen dataclass. ``draw`` is a pure function of its arguments, cheap, and runs in the process that trains;
``mix`` runs in the forward pass of the model, on its device, and must not wait for it.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import ClassVar, NamedTuple, Protocol

from torch import Tensor

from ..params import MixParams, Place, check_no_clean
from ..targets import dense_targets

ImageSize = tuple[int, int, int]  # channels, height, width

WHOLE_BATCHES = "with Accelerate and the Hugging Face Trainer use dispatch_batches=False and split_batches=False"


class Mixed(NamedTuple):
    """A batch as the model gets it.

    Attributes:
        images: [B, C, H, W].
        targets: Dense targets that belong to the model's logits, [B, num_classes].
        extra_loss: Scalar to add to the loss.
    """

    images: Tensor
    targets: Tensor
    extra_loss: Tensor | None = None


class HookedNetwork(Protocol):
    """What a mixer may ask of the network: :class:`alignmix_timm.MixingHooks`."""

    def arm(self, params: MixParams, image_size: ImageSize) -> None:
        """Let the next training forward pass mix features or embeddings as ``params`` say."""

    def saliency(self, images: Tensor, targets: Tensor) -> Tensor:
        """Where the images matter to the network, [B, H, W] >= 0: one more forward and backward pass."""


@dataclass(frozen=True)
class Mixer(ABC):
    """A way of mixing. A subclass has a name, options as fields with defaults, and raises ValueError for wrong ones."""

    name: ClassVar[str]

    def __str__(self) -> str:
        given = {field.name: getattr(self, field.name) for field in fields(self) if field.repr}
        return f"{self.name} ({', '.join(f'{name}={value}' for name, value in given.items() if value is not None)})"

    @property
    def aligns(self) -> bool:
        """Whether some batch it draws is aligned."""
        return False

    @property
    def mixes_inside(self) -> bool:
        """Whether some batch is mixed inside the network, where a teacher of the same images would not see it."""
        return False

    @property
    def feature_layers(self) -> tuple[str | int | None, ...]:
        """Layers at which features are mixed: names of modules, or numbers of stages; None is the mixing point."""
        return ()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the mixers whose batches it can mix."""
        return (self.name,)

    def for_drawing(self) -> "Mixer":
        """A mixer that draws alike, without what only :meth:`mix` needs, such as a network: it travels with batches."""
        return self

    @abstractmethod
    def draw(self, batch_size: int, place: Place) -> MixParams:
        """Draw how the batch at this place is mixed, on the CPU.

        The mode, and the mixer among several, depend on (seed, step) alone, so that all processes agree on them.
        """

    @abstractmethod
    def mix(self, images: Tensor, targets: Tensor, params: MixParams, net: HookedNetwork) -> Mixed:
        """Mix images and targets as drawn. Features and embeddings are mixed by ``net``, which is armed for that.

        Args:
            images: [B, C, H, W].
            targets: Dense targets [B, num_classes].
            params: Drawn by this mixer, on the device of the images; never of mode ``none``.
            net: The hooked network.
        """


def mix_batch(
    mixer: Mixer,
    images: Tensor,
    labels: Tensor,
    params: MixParams,
    net: HookedNetwork,
    num_classes: int,
    smoothing: float = 0.0,
) -> Mixed:
    """Arm the network, make the targets dense, and mix: the one way a batch goes, whatever mixes it.

    Args:
        mixer: Of the model.
        images: [B, C, H, W].
        labels: As :func:`alignmix_timm.targets.dense_targets` takes them.
        params: Drawn by ``mixer``, or by one of its parts.
        net: The hooked network that gets the images next.
        num_classes, smoothing: Of the targets.

    Raises:
        ValueError: parameters of another mixer or batch size, or of mode ``clean``; images or labels of a wrong shape.
        RuntimeError, FloatingPointError: the previous batch was not mixed as drawn.
    """
    if len(params) != len(images):
        raise ValueError(
            f"mix was drawn for {len(params)} examples, the batch has {len(images)}. A batch must not be joined or "
            f"split after it was collated: {WHOLE_BATCHES}. DataParallel splits batches, also in the Trainer where "
            "it is started with python on several GPUs: use accelerate launch, with one process for each GPU."
        )
    check_no_clean([params.mode])
    if params.mode != "none" and params.mixer not in mixer.names:
        raise ValueError(
            f"mix must be drawn by the mixer of the model, {' or '.join(mixer.names)}, got {params.mixer!r}. Pass the "
            "same mixer to the collator and to the model."
        )
    params = params.beside(images)
    targets = dense_targets(labels, num_classes, smoothing)
    net.arm(params, image_size(images))
    return Mixed(images, targets) if params.mode == "none" else mixer.mix(images, targets, params, net)


def image_size(images: Tensor) -> ImageSize:
    """(C, H, W) of a batch; ValueError if it is none of images."""
    if images.ndim != 4:
        raise ValueError(f"images must be [B, C, H, W], got shape {tuple(images.shape)}.")
    return images.shape[1], images.shape[2], images.shape[3]
