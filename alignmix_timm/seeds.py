"""Randomness by key: every draw of a run comes from (seed, purpose, place), never from what was drawn before.

So nothing that is random depends on the number of processes or data workers, and a checkpoint needs no random state.
"""

import random
from enum import IntEnum

import numpy as np
import torch


class Stream(IntEnum):
    """Purposes, each with randomness of its own."""

    MODE = 0  # step
    PAIR = 1  # step, micro-batch
    ORDER = 2  # epoch
    AUGMENT = 3  # epoch, row
    NETWORK = 4  # step, micro-batch: dropout, stochastic depth
    MIXER = 5  # step
    REGION = 6  # step, micro-batch: where images are cut; step: into how many blocks
    INIT = 7  # weights of a new model
    SPLIT = 8  # rows held out or left out
    SHOW = 9  # pairs of held-out images to look at
    LAYER = 10  # step: where features are mixed


def generator(seed: int, stream: Stream, *place: int) -> np.random.Generator:
    """An independent generator for every (seed, stream, place)."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(stream, *place)))


def seed_all(seed: int, stream: Stream, *place: int) -> None:
    """Seed Python, numpy, and torch on the CPU and, in a process that uses them, on its accelerators."""
    words = np.random.SeedSequence(seed, spawn_key=(stream, *place)).generate_state(3, np.uint64)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]) % 2**32)
    if torch.accelerator.is_available() and torch.utils.data.get_worker_info() is None:
        torch.manual_seed(int(words[2]) % 2**63)
    else:
        torch.default_generator.manual_seed(int(words[2]) % 2**63)  # without accelerators: a hundred times faster
