"""Every way of mixing, one file each, under one contract: options without state that draw, then mix.

May import ``functional``, ``nearest``, ``params``, ``seeds`` and ``targets``; knows nothing of hooks, models or
training. A new mixer is a file here, and a line in ``registry``.
"""

from .alignmix import AlignMixup, drawn_by
from .comixup import CoMixup
from .contract import HookedNetwork, Mixed, Mixer, image_size, mix_batch
from .cutmix import CutMix
from .input import InputMixup
from .manifold import ManifoldMixup
from .mix_draw import MixDraw, drawn
from .one_of import NoMixing, OneOf
from .registry import MIXERS, make_mixer

__all__ = [
    "MIXERS",
    "AlignMixup",
    "CoMixup",
    "CutMix",
    "HookedNetwork",
    "InputMixup",
    "ManifoldMixup",
    "MixDraw",
    "Mixed",
    "Mixer",
    "NoMixing",
    "OneOf",
    "drawn",
    "drawn_by",
    "image_size",
    "make_mixer",
    "mix_batch",
]
