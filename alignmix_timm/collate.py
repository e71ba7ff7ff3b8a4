"""The collator: a batch of examples, with the parameters by which the model will mix it."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate, get_worker_info
from typing_extensions import Unpack

from .mixers import Mixer, drawn_by
from .params import DrawOptions, MixParams, Place, process_index
from .targets import check_labels

_IMAGE_COLUMNS = ("pixel_values", "image", "img")
_LABEL_COLUMNS = ("labels", "label")
_MAX_WORKERS = 1024


class AlignMixCollator:
    """Collate examples into ``{"pixel_values", "labels", "mix"}``.

    Nothing is mixed here, so a collator serves evaluation as well; give each loader one of its own. Batches are counted
    in each data worker, over all epochs, so that every batch of a run is drawn anew from (seed, number of the batch),
    with the same mode in every process. A resumed run starts to count again.

    Args:
        seed: Seed of the run.
        num_classes: If given, class-index labels outside [0, num_classes) are an error here, in the data worker.
        image_column: Name of the images in an example; default the first of pixel_values, image, img.
        label_column: Name of the labels; default the first of labels, label.
        mixer: How batches are mixed, the same as the model's; default AlignMix with the options below.
        **options: alpha, modes, weights, prob, per_example: see :func:`alignmix_timm.draw`.

    Raises:
        ValueError: an option outside its range, or one for drawing beside a mixer.
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
        self.mixer = drawn_by(mixer, options)
        self.seed, self.num_classes = seed, num_classes
        self.image_column, self.label_column = image_column, label_column
        self.process_index = process_index()
        # In shared memory, one count for each worker: workers may be started anew for every epoch.
        self.counts = torch.zeros(_MAX_WORKERS, dtype=torch.int64).share_memory_()

    def __call__(self, examples: Sequence[Mapping[str, Any] | tuple[Any, ...]]) -> dict[str, Tensor | MixParams]:
        """Collate.

        Args:
            examples: Mappings with an image tensor [C, H, W] and a label, or (image, label) tuples.

        Returns:
            ``pixel_values`` [B, C, H, W], ``labels`` [B] or [B, C] as in the dataset (absent if there are none), and
            ``mix``: :class:`MixParams`.

        Raises:
            ValueError: columns not found, images that are not tensors, labels outside the classes.
        """
        images, labels = self._columns(examples)
        wrong = next((image for image in images if not isinstance(image, Tensor)), None)
        if wrong is not None:
            raise ValueError(
                f"images must be tensors [C, H, W], got {type(wrong).__name__}: apply the transform in the dataset."
            )
        batch: dict[str, Tensor | MixParams] = {"pixel_values": torch.stack(images)}
        if labels:
            collated = default_collate(labels)
            if self.num_classes is not None and self.num_classes > 1 and collated.ndim == 1:
                check_labels(collated, self.num_classes)
            batch["labels"] = collated
        batch["mix"] = self.mixer.draw(len(images), Place(self.seed, self._next_step(), self.process_index))
        return batch

    def _columns(self, examples: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        first = examples[0]
        if not isinstance(first, Mapping):
            return [example[0] for example in examples], [example[1] for example in examples]
        image = self.image_column or next((name for name in _IMAGE_COLUMNS if name in first), _IMAGE_COLUMNS[0])
        label = self.label_column or next((name for name in _LABEL_COLUMNS if name in first), None)
        for argument, name in (("image_column", image), ("label_column", label)):
            if name is not None and name not in first:
                raise ValueError(f"{argument} must be one of the columns {sorted(first)}, got {name!r}.")
        labels = [] if label is None else [example[label] for example in examples]
        return [example[image] for example in examples], labels

    def _next_step(self) -> int:
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker is not None else (0, 1)
        step = number + int(self.counts[number]) * workers
        self.counts[number] += 1
        return step
