"""``resnet50_stride1``: timm's ``resnet50`` with stride 1 in its last stage, a map of 14 x 14 at 224 pixels."""

from typing import Any

from timm.models import generate_default_cfgs, register_model
from timm.models.resnet import Bottleneck, ResNet

from .staged import IMAGENET, create, network_cfg


class ResNetStride1(ResNet):
    """timm's ResNet-50 whose last stage has stride 1 and no dilation."""

    layer4: Any

    def __init__(self, **kwargs: Any) -> None:
        block: Any = Bottleneck
        super().__init__(block, (3, 4, 6, 3), **kwargs)
        first = self.layer4[0]
        first.conv2.stride = first.downsample[0].stride = (1, 1)
        self.feature_info[-1]["reduction"] = 16


default_cfgs = generate_default_cfgs(
    {
        "resnet50_stride1.tv_in1k": network_cfg(
            **IMAGENET,
            first_conv="conv1",
            classifier="fc",
            fixed_input_size=False,
            pool_size=(14, 14),
            hf_hub_id="timm/resnet50.tv_in1k",
        ),
    }
)


@register_model
def resnet50_stride1(pretrained: bool = False, **kwargs: Any) -> ResNetStride1:
    """ResNet-50 with a map of 14 x 14 at 224 pixels: :class:`ResNetStride1`."""
    return create(ResNetStride1, "resnet50_stride1", pretrained, 5, **kwargs)
