"""All ways of mixing, by name."""

from dataclasses import fields
from typing import Any

from ..nearest import nearest
from .alignmix import AlignMixup
from .contract import Mixer
from .cutmix import CutMix
from .input import InputMixup
from .manifold import ManifoldMixup
from .one_of import NoMixing

MIXERS: dict[str, type[Mixer]] = {
    mixer.name: mixer for mixer in (AlignMixup, ManifoldMixup, InputMixup, CutMix, NoMixing)
}


def make_mixer(name: str, **options: Any) -> Mixer:
    """The mixer of this name with these options, each its default where it is not given.

    Raises:
        ValueError: no such mixer or option, with the nearest there is; an option outside its range.
    """
    if name not in MIXERS:
        raise ValueError(f"mixer must be one of {', '.join(MIXERS)}, got {name!r}.{nearest(name, MIXERS)}")
    known = [option.name for option in fields(MIXERS[name])]
    for option in options:
        if option not in known:
            raise ValueError(
                f"{name} has no option {option!r}; it has {', '.join(known) or 'none'}.{nearest(option, known)}"
            )
    try:
        return MIXERS[name](**options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: {error}") from error
