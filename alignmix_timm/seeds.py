"""Randomness by key: every draw of a run comes from (seed, purpose, place), never from what was drawn before.

So nothing that is random depends on the number of processes or data workers, and a checkpoint needs no random state.
"""

import functools
import itertools
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
    word = _seed_host(seed, stream, *place)
    if torch.accelerator.is_available() and torch.utils.data.get_worker_info() is None:
        torch.manual_seed(word)
    else:
        torch.default_generator.manual_seed(word)  # without accelerators: a hundred times faster


def seed_cpu(seed: int, stream: Stream, *place: int) -> None:
    """Seed Python, numpy, and torch on the CPU, by the numbers of :func:`seed_all`, in about ten microseconds."""
    torch.default_generator.manual_seed(_seed_host(seed, stream, *place))


def _seed_host(seed: int, *key: int) -> int:
    """Seed Python and numpy; return the seed for torch."""
    first, second, third = _state(seed, *key)
    random.seed(first)
    np.random.seed(second % 2**32)
    return third % 2**63


# What follows is numpy's SeedSequence, which takes longer than seeding itself. A key that differs from one before in
# its last number alone, as a row of an epoch does, takes up the hash there.

_MASK = 0xFFFFFFFF
_POWERS = [0x8B51F9DD * 0x58F38DED**power & _MASK for power in range(7)]
_OUTPUT = tuple(itertools.pairwise(_POWERS))  # the constants of six words of output


def _state(seed: int, *key: int) -> tuple[int, int, int]:
    """``np.random.SeedSequence(seed, spawn_key=key).generate_state(3, np.uint64)``."""
    pool, _ = _hashed(_hashed_before(seed, *key[:-1]), _uint32(key[-1]))
    words = []
    for word, (before, after) in zip((*pool, *pool[:2]), _OUTPUT, strict=True):
        word = (word ^ before) * after & _MASK
        words.append(word ^ word >> 16)
    return words[0] | words[1] << 32, words[2] | words[3] << 32, words[4] | words[5] << 32


@functools.lru_cache(maxsize=64)
def _hashed_before(seed: int, *key: int) -> tuple[tuple[int, ...], int]:
    """The pool of the hash, and its constant, after a key without its last number."""
    entropy = _uint32(seed)
    entropy += [0] * (4 - len(entropy))
    pool, constant = [], 0x43B0D7E5
    for word in entropy[:4]:
        mixed, constant = _hashmix(word, constant)
        pool.append(mixed)
    for source in range(4):
        for target in range(4):
            if source != target:
                mixed, constant = _hashmix(pool[source], constant)
                pool[target] = _mix(pool[target], mixed)
    rest = [*entropy[4:], *(word for number in key for word in _uint32(number))]
    return _hashed((tuple(pool), constant), rest)


def _hashed(state: tuple[tuple[int, ...], int], words: list[int]) -> tuple[tuple[int, ...], int]:
    """The pool and its constant after more words."""
    pool, constant = state
    for word in words:
        mixed = []
        for target in pool:  # as _hashmix and _mix have it, without the time of their calls
            hashed = word ^ constant
            constant = constant * 0x931E8875 & _MASK
            hashed = hashed * constant & _MASK
            target = target * 0xCA01F9DD - (hashed ^ hashed >> 16) * 0x4973F715 & _MASK
            mixed.append(target ^ target >> 16)
        pool = tuple(mixed)
    return pool, constant


def _hashmix(word: int, constant: int) -> tuple[int, int]:
    word ^= constant
    constant = constant * 0x931E8875 & _MASK
    word = word * constant & _MASK
    return word ^ word >> 16, constant


def _mix(first: int, second: int) -> int:
    mixed = first * 0xCA01F9DD - second * 0x4973F715 & _MASK
    return mixed ^ mixed >> 16


def _uint32(number: int) -> list[int]:
    """The 32-bit words of a number >= 0, the lowest first; one for 0."""
    words = [int(number) & _MASK]
    while number := int(number) >> 32:
        words.append(number & _MASK)
    return words
