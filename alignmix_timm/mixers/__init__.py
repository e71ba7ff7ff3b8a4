"""Every way of mixing, one file each, under one contract: options without state that draw, then mix.

May import ``functional``, ``nearest``, ``params``, ``seeds`` and ``targets``; knows nothing of hooks, models or
training. A new mixer is a file here, and a line in ``registry``.
"""

from .alignmix import AlignMixup, drawn_by
from .comixup import CoMixup
from .contract import HookedNetwork, Mixed, Mixer, image_size, mix_batch
from .cutmix import CutMix
from .cutout import Cutout
from .input import InputMixup
from .manifold import ManifoldMixup
from .mix_draw import MixDraw, drawn
from .one_of import NoMixing, OneOf
from .puzzlemix import PuzzleMix
from .registry import MIXERS, make_mixer
from .saliencymix import SaliencyMix
from .style_codec import AdaINCodec, StyleCodec, load_codec
from .stylecutmix import StyleCutMix
from .stylemix import StyleMix

__all__ = [
    "MIXERS",
    "AdaINCodec",
    "AlignMixup",
    "CoMixup",
    "CutMix",
    "Cutout",
    "HookedNetwork",
    "InputMixup",
    "ManifoldMixup",
    "MixDraw",
    "Mixed",
    "Mixer",
    "NoMixing",
    "OneOf",
    "PuzzleMix",
    "SaliencyMix",
    "StyleCodec",
    "StyleCutMix",
    "StyleMix",
    "drawn",
    "drawn_by",
    "image_size",
    "load_codec",
    "make_mixer",
    "mix_batch",
]
