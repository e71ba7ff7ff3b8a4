"""AlignMix for timm and Hugging Face: mixup of images whose feature maps were aligned by optimal transport."""

from . import mixers, networks
from .alignment import Alignment
from .attaching import attach, detach
from .collate import AlignMixCollator
from .dropin import AlignMix
from .functional import align, alignmix, mix, mix_targets
from .hooks import MixingHooks
from .mixers import MixDraw
from .model import AlignMixModel, AlignMixOutput
from .networks.autoencoder import Autoencoder
from .networks.encoder import Encoder
from .params import MODES, MixParams, Mode, draw
from .points import MixingPoint, choose_point, describe_points
from .publishing.save import save_for_timm
from .publishing.upload import push_to_hub
from .sinkhorn import Transport, assign

__version__ = "0.1.0"

__all__ = [
    "MODES",
    "AlignMix",
    "AlignMixCollator",
    "AlignMixModel",
    "AlignMixOutput",
    "Alignment",
    "Autoencoder",
    "Encoder",
    "MixDraw",
    "MixParams",
    "MixingHooks",
    "MixingPoint",
    "Mode",
    "Transport",
    "align",
    "alignmix",
    "assign",
    "attach",
    "choose_point",
    "describe_points",
    "detach",
    "draw",
    "mix",
    "mix_targets",
    "mixers",
    "networks",
    "push_to_hub",
    "save_for_timm",
]
