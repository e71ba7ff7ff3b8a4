"""Pairs of held-out images of different classes, to look at or to measure on."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..seeds import Stream, generator
from ..training.config import TrainConfig
from ..training.data.dataset import Key, Rows
from ..training.data.splits import load_splits
from ..training.data.transforms import data_config, eval_transform


class Pairs(NamedTuple):
    """Normalised images of B pairs, [B, C, H, W] each, and the names of their classes."""

    first: Tensor
    second: Tensor
    first_names: list[str]
    second_names: list[str]


def held_out_pairs(net: nn.Module, config: TrainConfig, count: int, seed: int) -> Pairs:
    """Pairs from the evaluation split of a run, transformed as for its evaluation.

    Args:
        net: The timm model of the run.
        config: Its options.
        count: Number of pairs.
        seed: The pairs follow from it, and from the labels of the split.

    Raises:
        ValueError: the data cannot be loaded, or have too few rows for as many pairs.
    """
    splits, mode = load_splits(config), "L" if config.in_chans == 1 else "RGB"
    transform = eval_transform(data_config(net, config))
    options: dict[str, Any] = dict(skip_corrupt=config.skip_corrupt, max_pixels=config.max_pixels)
    rows = Rows(splits.test, splits.image, splits.label, transform, mode, **options)
    chosen = draw_pairs(splits.test[splits.label], count, seed)
    examples = [[rows[Key(0, int(row))] for row in column] for column in chosen.T]
    first, second = (torch.stack([example["pixel_values"] for example in column]) for column in examples)
    names = [[splits.names[example["labels"]] for example in column] for column in examples]
    return Pairs(first, second, *names)


def draw_pairs(labels: Sequence[int], count: int, seed: int) -> np.ndarray:
    """Rows of random pairs, [count, 2]: the two of a pair differ in class, and no row is in two pairs.

    Raises:
        ValueError: there are not as many such pairs in the order drawn.
    """
    order = generator(seed, Stream.SHOW).permutation(len(labels))[: len(labels) // 2 * 2].reshape(-1, 2)
    classes = np.asarray(labels)[order]
    found = order[classes[:, 0] != classes[:, 1]]
    if len(found) < count:
        raise ValueError(
            f"pairs must be at most {len(found)}, those of different classes among {len(labels)} held-out rows, got "
            f"{count}."
        )
    return found[:count]
