"""The paper's networks, registered with timm, and the autoencoders that train them."""

from .preact_resnet import PreActResNet, ResNetStride1, VggGap

__all__ = ["PreActResNet", "ResNetStride1", "VggGap"]
