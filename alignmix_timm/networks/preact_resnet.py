"""Pre-activation ResNets of basic blocks, those of the paper's CIFAR and TinyImageNet experiments.

- ``preact_resnet18``: pre-activation ResNet-18 (He et al., https://arxiv.org/abs/1603.05027)
- ``wide_resnet16_8``: WRN-16-8 (Zagoruyko and Komodakis, https://arxiv.org/abs/1605.07146), no dropout in the blocks

``img_size`` decides how often the map is halved: the last map of ``preact_resnet18`` is 4 x 4 at 32 and at 64 pixels,
that of ``wide_resnet16_8`` 8 x 8.
"""

from typing import Any

from timm.layers import BatchNormAct2d, to_2tuple
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from .staged import ImageSize, StagedNet, create, network_cfg


class PreActBlock(nn.Module):
    """x + conv(a(conv(a(x)))) with a = ReLU of batch norm; where the shape changes, conv1x1(a(x)) stands for x."""

    def __init__(self, in_chs: int, out_chs: int, stride: int) -> None:
        super().__init__()
        self.norm1 = BatchNormAct2d(in_chs)
        self.conv1 = nn.Conv2d(in_chs, out_chs, 3, stride, 1, bias=False)
        self.norm2 = BatchNormAct2d(out_chs)
        self.conv2 = nn.Conv2d(out_chs, out_chs, 3, 1, 1, bias=False)
        same = stride == 1 and in_chs == out_chs
        self.shortcut = None if same else nn.Conv2d(in_chs, out_chs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        activated = self.norm1(x)
        shortcut = x if self.shortcut is None else self.shortcut(activated)
        return shortcut + self.conv2(self.norm2(self.conv1(activated)))


class PreActResNet(StagedNet):
    """Pre-activation ResNet of basic blocks; wide ResNets are such.

    Args:
        depths: Blocks of each stage. Every stage but the first halves the map and has twice the channels.
        img_size: Below 64 pixels the stem is a 3 x 3 convolution of stride 1, below 128 of stride 2, and from there on
            a 7 x 7 convolution of stride 2 before a max pooling.
        width: Channels of the first stage.
        stem_width: Channels of the stem; None is ``width``.
        last_stride: Of the last stage: 2, or 1 for a map twice as large.

    Raises:
        ValueError: ``last_stride`` or ``width`` outside its range.
    """

    def __init__(
        self,
        depths: tuple[int, ...],
        img_size: ImageSize = 32,
        width: int = 64,
        stem_width: int | None = None,
        last_stride: int = 2,
        in_chans: int = 3,
        num_classes: int = 10,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
    ) -> None:
        if last_stride not in (1, 2):
            raise ValueError(f"last_stride must be 1 or 2, got {last_stride}.")
        if width < 1:
            raise ValueError(f"width must be the number of channels of the first stage, >= 1, got {width}.")
        side, chs = min(to_2tuple(img_size)), stem_width or width
        if side < 128:
            stem = nn.Sequential(nn.Conv2d(in_chans, chs, 3, 1 if side < 64 else 2, 1, bias=False))
        else:
            stem = nn.Sequential(nn.Conv2d(in_chans, chs, 7, 2, 3, bias=False), nn.MaxPool2d(3, 2, 1))
        info = [{"num_chs": chs, "reduction": 1 if side < 64 else 2, "module": "stem.0"}]
        reduction = 4 if side >= 128 else info[0]["reduction"]
        stages: list[nn.Module] = []
        for index, depth in enumerate(depths):
            stride = 1 if index == 0 else last_stride if index == len(depths) - 1 else 2
            out_chs = width * 2**index
            blocks = [PreActBlock(chs if i == 0 else out_chs, out_chs, stride if i == 0 else 1) for i in range(depth)]
            stages.append(nn.Sequential(*blocks))
            chs, reduction = out_chs, reduction * stride
            info.append({"num_chs": chs, "reduction": reduction, "module": f"stages.{index}"})
        info[-1]["module"] = "final"
        super().__init__(stem, stages, BatchNormAct2d(chs), info, num_classes, global_pool, drop_rate)


default_cfgs = generate_default_cfgs({"preact_resnet18": network_cfg(), "wide_resnet16_8": network_cfg()})


@register_model
def preact_resnet18(pretrained: bool = False, **kwargs: Any) -> PreActResNet:
    """Pre-activation ResNet-18: :class:`PreActResNet` of depths 2, 2, 2, 2."""
    return create(PreActResNet, "preact_resnet18", pretrained, 5, **{"depths": (2, 2, 2, 2), **kwargs})


@register_model
def wide_resnet16_8(pretrained: bool = False, **kwargs: Any) -> PreActResNet:
    """WRN-16-8: :class:`PreActResNet` of depths 2, 2, 2, stem of 16 channels, first stage of 8 times as many."""
    args = {"depths": (2, 2, 2), "stem_width": 16, "width": 128, **kwargs}
    return create(PreActResNet, "wide_resnet16_8", pretrained, 4, **args)
