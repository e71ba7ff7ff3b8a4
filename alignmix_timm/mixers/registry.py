"""All ways of mixing, by name."""

from dataclasses import fields
from typing import Any, get_origin, get_type_hints

from ..nearest import nearest
from ..typed import kinds_of, typed
from .alignmix import AlignMixup
from .comixup import CoMixup
from .contract import Mixer
from .cutmix import CutMix
from .cutout import Cutout
from .input import InputMixup
from .manifold import ManifoldMixup
from .one_of import NoMixing
from .puzzlemix import PuzzleMix
from .saliencymix import SaliencyMix
from .stylecutmix import StyleCutMix
from .stylemix import StyleMix

MIXERS: dict[str, type[Mixer]] = {
    mixer.name: mixer
    for mixer in (
        AlignMixup,
        ManifoldMixup,
        InputMixup,
        CutMix,
        Cutout,
        SaliencyMix,
        PuzzleMix,
        CoMixup,
        StyleMix,
        StyleCutMix,
        NoMixing,
    )
}


def make_mixer(name: str, **options: Any) -> Mixer:
    """The mixer of this name with these options, each its default where it is not given.

    Raises:
        ValueError: no such mixer or option, with the nearest there is; an option outside its range; a missing package.
    """
    if name not in MIXERS:
        raise ValueError(f"mixer must be one of {', '.join(MIXERS)}, got {name!r}.{nearest(name, MIXERS)}")
    known = [option.name for option in fields(MIXERS[name])]
    hints = get_type_hints(MIXERS[name])
    for option in options:
        if option not in known:
            raise ValueError(
                f"{name} has no option {option!r}; it has {', '.join(known) or 'none'}.{nearest(option, known)}"
            )
    try:
        return MIXERS[name](**{option: _plain(option, hints[option], value) for option, value in options.items()})
    except (ImportError, TypeError, ValueError) as error:
        raise ValueError(f"{name}: {error}") from error


def _plain(option: str, hint: Any, value: Any) -> Any:
    """Numbers, words and switches in their types; a mixer checks its sequences itself."""
    return value if get_origin(kinds_of(hint)[0]) else typed(option, hint, value)
