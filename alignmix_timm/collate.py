"""The collator: a batch of examples, with what the model will mix it by."""

import copy
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate
from typing_extensions import Unpack

from .mixers import MixDraw, Mixer, drawn_by
from .mixers.option_names import check_option_names
from .params import DrawOptions
from .targets import check_labels

_IMAGE_COLUMNS = ("pixel_values", "image", "img")
_LABEL_COLUMNS = ("labels", "label", "fine_label")
_TRAINER_HINT = "With the Hugging Face Trainer, set remove_unused_columns=False."


class AlignMixCollator:
    """Collate examples into ``{"pixel_values", "labels", "mix"}``.

    Nothing is mixed or drawn here, so a collator serves evaluation as well. ``mix`` is drawn from (seed, number of the
    batch) when it is first read, as the model does in training: each training process counts the batches that it reads,
    over all epochs and all loaders of the collator. So every batch is drawn anew, with the same mode in every process;
    data workers, epochs left early, and evaluation in between make no difference. A pickled copy counts together with
    the original, in each process; a deep copy counts for itself. A resumed run starts to count again.

    Args:
        seed: Seed of the run.
        num_classes: If given, class-index labels outside [0, num_classes) are an error here, in the data worker.
        image_column: Name of the images in an example; default the first of pixel_values, image, img.
        label_column: Name of the labels; default the first of labels, label, fine_label.
        mixer: How batches are mixed, the same as the model's; default AlignMix with the options below.
        **options: alpha, modes, weights, prob, per_example: see :func:`alignmix_timm.draw`.

    Raises:
        ValueError: an option outside its range, or one for drawing beside a mixer.
        TypeError: an unknown option.
    """

    def __init__(
        self,
        seed: int = 0,
        num_classes: int | None = None,
        image_column: str | None = None,
        label_column: str | None = None,
        mixer: Mixer | None = None,
        **options: Unpack[DrawOptions],
    ) -> None:
        check_option_names(options, DrawOptions.__annotations__)
        self.mixer = drawn_by(mixer, options)
        self.seed, self.num_classes = seed, num_classes
        self.image_column, self.label_column = image_column, label_column
        self._key = uuid.uuid4().hex

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "mixer": self.mixer.for_drawing()}  # what data workers get

    def __deepcopy__(self, memo: dict[int, Any]) -> "AlignMixCollator":
        copied = type(self).__new__(type(self))
        copied.__dict__.update(copy.deepcopy(self.__dict__, memo), _key=uuid.uuid4().hex)
        return copied

    def __call__(self, examples: Sequence[Mapping[str, Any] | tuple[Any, ...]]) -> dict[str, Tensor | MixDraw]:
        """Collate.

        Args:
            examples: Mappings with an image tensor [C, H, W] and a label, or (image, label) tuples.

        Returns:
            ``pixel_values`` [B, C, H, W], ``labels`` [B] or [B, C] as in the dataset (absent if there are none, which
            evaluation allows and training does not), and ``mix``: :class:`alignmix_timm.MixDraw`.

        Raises:
            ValueError: columns not found, images that are not tensors, labels missing in some of the examples, of
                another kind, or outside the classes.
        """
        images, labels, unlabelled = self._columns(examples)
        wrong = next((image for image in images if not isinstance(image, Tensor)), None)
        if wrong is not None:
            raise ValueError(
                f"images must be tensors [C, H, W], got {type(wrong).__name__}: apply the transform in the dataset."
            )
        batch: dict[str, Tensor | MixDraw] = {"pixel_values": torch.stack(images)}
        if not unlabelled:
            batch["labels"] = self._stacked(labels)
        batch["mix"] = MixDraw(self.mixer.for_drawing(), self.seed, len(images), self._key, unlabelled)
        return batch

    def _columns(self, examples: Sequence[Any]) -> tuple[list[Any], list[Any], str]:
        """Images, labels, and why there are no labels, if there are none."""
        first = examples[0]
        if isinstance(first, tuple | list) and first:
            images, unlabelled = [example[0] for example in examples], "the examples are tuples without a second item."
            labels = [example[1] for example in examples] if len(first) > 1 else []
        elif isinstance(first, Mapping):
            images, labels, unlabelled = self._named(examples)
        else:
            kind = f"{type(first).__name__}{' without items' if isinstance(first, tuple | list) else ''}"
            raise ValueError(f"examples must be mappings or (image, label) tuples, got {kind}.")
        if not labels:
            return images, [], unlabelled
        missing = sum(label is None for label in labels)
        if missing == len(labels):
            return images, [], "the label of every example is None."
        if missing:
            raise ValueError(
                f"labels must be given in all examples or in none, got None in {missing} of {len(labels)}."
            )
        return images, labels, ""

    def _named(self, examples: Sequence[Mapping[str, Any]]) -> tuple[list[Any], list[Any], str]:
        columns = sorted(examples[0])
        image = self.image_column or next((name for name in _IMAGE_COLUMNS if name in columns), _IMAGE_COLUMNS[0])
        label = self.label_column or next((name for name in _LABEL_COLUMNS if name in columns), None)
        for argument, name in (("image_column", image), ("label_column", label)):
            if name is not None and name not in columns:
                raise ValueError(f"{argument} must be one of the columns {columns}, got {name!r}. {_TRAINER_HINT}")
        images = [example[image] for example in examples]
        if label is None:
            unlabelled = (
                f"none of the columns {columns} is one of {', '.join(_LABEL_COLUMNS)}: pass label_column to "
                f"AlignMixCollator. {_TRAINER_HINT}"
            )
            return images, [], unlabelled
        return images, [example[label] for example in examples], ""

    def _stacked(self, labels: list[Any]) -> Tensor:
        kinds = sorted({type(label).__name__ for label in labels})
        try:
            with torch.device("cpu"):  # beside the images, whatever the default device
                rows = [torch.tensor(label) if isinstance(label, list | tuple) else label for label in labels]
                collated = default_collate(rows)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"labels must be class indices or targets of one shape, got {kinds}: {error}") from error
        if not isinstance(collated, Tensor):
            raise ValueError(
                f"labels must be class indices, or targets as lists, arrays or tensors, got {kinds}, such as "
                f"{labels[0]!r}. Number the classes, in Hugging Face datasets with class_encode_column."
            )
        if self.num_classes is not None and self.num_classes > 1 and collated.ndim == 1:
            check_labels(collated, self.num_classes)
        return collated
