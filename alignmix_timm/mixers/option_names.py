"""Options by a name that is known elsewhere and not here: what is meant by them."""

from collections.abc import Iterable, Mapping
from typing import Any

from ..nearest import nearest
from ..params import DrawOptions

# Options of timm.data.Mixup, and those of the collator where they are given to the model.
_MEANT = {
    "mixup_alpha": "use alpha.",
    "cutmix_alpha": "use mixer=alignmix_timm.mixers.CutMix(alpha=...).",
    "cutmix_minmax": "use mixer=alignmix_timm.mixers.CutMix(minmax=...).",
    "switch_prob": "use mixer=alignmix_timm.mixers.OneOf(..., probabilities=...).",
    "mode": "use per_example=True or False.",
    "correct_lam": "leave it out, the lam of CutMix is always that of the box as clipped.",
} | dict.fromkeys(DrawOptions.__annotations__, "give it to AlignMixCollator, which draws, or to draw.")


def check_option_names(options: Mapping[str, Any], known: Iterable[str]) -> None:
    """Raise TypeError for an option that is not known, saying which is meant."""
    known = sorted(known)
    for name in options:
        if name not in known:
            options_here = f"the options are {', '.join(known)}.{nearest(name, known)}"
            raise TypeError(f"unexpected option {name!r}: {_MEANT.get(name, options_here)}")
