"""How a batch will be mixed: drawn where it is first read, in the process that trains, not where it is collated.

A data worker prepares batches ahead, may be started anew for every epoch, and is stopped at a chance moment where an
epoch is left early: what it counts cannot be reproduced. So the training process counts the batches that it reads.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from itertools import count
from operator import attrgetter
from typing import Any

import torch
from torch.utils.data import get_worker_info

from ..params import MixParams, Place, process_index
from .contract import WHOLE_BATCHES, Mixer

_NUMBERS: defaultdict[str, Iterator[int]] = defaultdict(count)  # of the batches of each collator, read in this process


class _OfOneBatch(type):
    # Accelerate, told to join or broadcast batches, names the class that it cannot handle, and nothing else of it:
    # so this is the one place where the user can be told what to do.
    def __repr__(cls) -> str:
        return f"{super().__repr__()} (how one batch is mixed, not to be joined or split: {WHOLE_BATCHES})"


class MixDraw(metaclass=_OfOneBatch):
    """What :class:`alignmix_timm.AlignMixCollator` gives a batch to be mixed by: drawn when one of its values is read.

    The draw is that of ``mixer.draw`` at (seed, number, rank): number counts the batches of this collator that were
    read in this process, and rank is that of this process. It is drawn once, so a batch that is used twice is mixed
    alike. Frameworks that move or cast the tensors of a batch leave it as it is; the model moves what was drawn.

    Args:
        mixer: Draws.
        seed: Seed of the run, >= 0.
        batch_size: Number of examples.
        collator: Key of the collator whose batches are counted together.
        unlabelled: See :class:`MixParams`.

    Attributes:
        params: The parameters, :class:`MixParams`, on the CPU. The read-only ``mode``, ``lam``, ``perm``, ``mixer``,
            ``aligned``, ``layer``, ``extra``, ``mixes_features`` and ``label`` are theirs.

    Raises:
        RuntimeError: read in a data worker, which does not know how many batches were trained on.
    """

    def __init__(self, mixer: Mixer, seed: int, batch_size: int, collator: str, unlabelled: str = "") -> None:
        self.seed, self.batch_size, self.unlabelled = seed, batch_size, unlabelled
        self._mixer, self._collator = mixer, collator

    @cached_property
    @torch.compiler.disable  # numpy draws, and the count must go up once for each batch
    def params(self) -> MixParams:
        """The parameters of the batch."""
        if get_worker_info() is not None:
            raise RuntimeError(
                "mix must be read in the process that trains, and was read in a data worker. Read it from the batches "
                "of the DataLoader, or draw in the worker with alignmix_timm.draw."
            )
        place = Place(self.seed, next(_NUMBERS[self._collator]), process_index())
        return replace(self._mixer.draw(self.batch_size, place), unlabelled=self.unlabelled)

    mode = property(attrgetter("params.mode"))
    lam = property(attrgetter("params.lam"))
    perm = property(attrgetter("params.perm"))
    mixer = property(attrgetter("params.mixer"))
    aligned = property(attrgetter("params.aligned"))
    layer = property(attrgetter("params.layer"))
    extra = property(attrgetter("params.extra"))
    mixes_features = property(attrgetter("params.mixes_features"))
    label = property(attrgetter("params.label"))

    def __len__(self) -> int:
        return self.batch_size

    def to(self, *args: Any, **kwargs: Any) -> "MixDraw":
        """Itself, for loops that move every value of a batch. The model moves what was drawn."""
        return self


def drawn(mix: MixParams | MixDraw) -> MixParams:
    """The parameters by which a batch is mixed; those of a collator are drawn now, unless they were read before."""
    return mix.params if isinstance(mix, MixDraw) else mix
