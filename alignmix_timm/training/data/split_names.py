"""The names of splits: what folders, files and the splits of a dataset are called when they train or evaluate."""

import re
from collections.abc import Iterable

TRAIN = ("train", "training", "trainval")
EVALUATION = (  # the first that is there: the labels of a test split are often hidden
    *("validation", "val", "valid", "validate", "validating", "dev", "holdout", "heldout", "eval", "evaluation"),
    *("test", "testing"),
)


def word_of(name: str) -> str | None:
    """The word of ``TRAIN`` or ``EVALUATION`` that a name has in it, as in Train, val2017 and my-test; else None."""
    words = [_whole(name), *re.split(r"[\W\d_]+", name.lower())]
    return next((word for word in words if word in (*TRAIN, *EVALUATION)), None)


def is_word(name: str) -> bool:
    """Whether a name is such a word and no more but digits, case and punctuation: Train, hold-out, val2017, testset."""
    return _whole(name) in (*TRAIN, *EVALUATION)


def trains(name: str) -> bool:
    """Whether this is the name of a training split."""
    return word_of(name) in TRAIN


def find_split(wanted: str, names: Iterable[str]) -> str | None:
    """The split that an option means: of this name, in any capitals, or another word for the same; None without one.

    Raises:
        ValueError: several may be meant.
    """
    names, family = list(names), _family(wanted)
    ways = (
        lambda name: name == wanted,
        lambda name: name.lower() == wanted.lower(),
        lambda name: family is not None and _family(name) == family,
    )
    for way in ways:
        if found := [name for name in names if way(name)]:
            return _only(found, wanted)
    return None


def evaluation_split(names: Iterable[str]) -> str | None:
    """The split to evaluate on; None without one.

    Raises:
        ValueError: two have the same claim to it.
    """
    named = [name for name in names if word_of(name) in EVALUATION]
    claims = {name: (not is_word(name), EVALUATION.index(str(word_of(name)))) for name in named}
    first = min(claims.values(), default=None)
    return _only([name for name in named if claims[name] == first], "evaluation") if named else None


def _whole(name: str) -> str:
    return re.sub(r"[\W\d_]+", "", name.lower()).removesuffix("set")


def _family(name: str) -> str | None:
    """Training, validation and test are three things, by whatever word."""
    word = word_of(name)
    if word is None:
        return None
    return next((family for family in ("train", "test") if word.startswith(family)), "validation")


def _only(found: list[str], wanted: str) -> str:
    if len(found) > 1:
        raise ValueError(
            f"the {wanted} split may be any of {', '.join(found)}: pass --train-split or --val-split with one of them."
        )
    return found[0]
