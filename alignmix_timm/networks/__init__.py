"""The paper's networks (appendix B), which ``import alignmix_timm`` registers with timm, and its autoencoders.

One file for each network; ``staged`` holds what they share. May import ``model`` and what that imports.
"""

from .preact_resnet import PreActResNet
from .resnet_stride1 import ResNetStride1
from .vgg_gap import VggGap

__all__ = ["PreActResNet", "ResNetStride1", "VggGap"]
