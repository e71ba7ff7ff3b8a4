"""The networks of the AlignMix paper (appendix B) that timm lacks, registered with timm.

``import alignmix_timm`` registers them: ``timm.create_model("preact_resnet18", num_classes=10)``.

- ``preact_resnet18``: pre-activation ResNet-18 (He et al., https://arxiv.org/abs/1603.05027)
- ``wide_resnet16_8``: WRN-16-8 (Zagoruyko and Komodakis, https://arxiv.org/abs/1605.07146), no dropout in the blocks
- ``vgg16_gap``: VGG-16 with a 3 x 3 convolution and global average pooling in the place of its fully connected layers
  (Zhou et al., https://arxiv.org/abs/1512.04150); convolutions 1 to 5 are those of timm's ``vgg16.tv_in1k``
- ``resnet50_stride1``: timm's ``resnet50`` with stride 1 in its last stage: a map of 14 x 14 at 224 pixels

In the first three ``img_size`` decides how often the map is halved. The last map of ``preact_resnet18`` and of
``vgg16_gap`` is 4 x 4 at 32 and at 64 pixels, that of ``wide_resnet16_8`` 8 x 8.
"""

import logging
from typing import Any

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import BatchNormAct2d, ClassifierHead, to_2tuple
from timm.models import build_model_with_cfg, checkpoint_seq, generate_default_cfgs, register_model
from timm.models.resnet import Bottleneck, ResNet
from torch import Tensor, nn

_logger = logging.getLogger(__name__)

ImageSize = int | tuple[int, int]

VGG_WIDTHS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
VGG_CONVS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)  # their places among the ``features`` of timm's vgg16


class StagedNet(nn.Module):
    """Stem, stages, a final module, global pooling and a linear classifier, with the interface of timm's models.

    Args:
        stem, stages, final: In the order in which they run.
        feature_info: Their outputs that can be extracted, as timm describes them.
        num_classes: 0 leaves the classifier out.
        global_pool: timm's name of a pooling; "" leaves it out too.
        drop_rate: Dropout before the classifier.
    """

    def __init__(
        self,
        stem: nn.Module,
        stages: list[nn.Module],
        final: nn.Module,
        feature_info: list[dict[str, Any]],
        num_classes: int,
        global_pool: str,
        drop_rate: float,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.grad_checkpointing = False
        self.feature_info = feature_info
        self.stem = stem
        self.stages = nn.Sequential(*stages)
        self.final = final
        self.num_features: int = feature_info[-1]["num_chs"]
        self.head = ClassifierHead(self.num_features, num_classes, pool_type=global_pool, drop_rate=drop_rate)
        self.head_hidden_size = self.num_features * self.head.global_pool.feat_mult()
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Groups of layers, for timm's layer decay."""
        return {"stem": r"^stem", "blocks": r"^stages\.(\d+)" if coarse else r"^stages\.(\d+)\.(\d+)"}

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the stages in the backward pass."""
        self.grad_checkpointing = enable

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """The linear classifier."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new classifier; None keeps the pooling."""
        self.num_classes = num_classes
        self.head.reset(num_classes, global_pool)
        self.head_hidden_size = self.num_features * self.head.global_pool.feat_mult()

    def forward_features(self, x: Tensor) -> Tensor:
        """Images [B, C, H, W] to the last map [B, D, h, w]."""
        x = self.stem(x)
        x = checkpoint_seq(self.stages, x) if self.grad_checkpointing else self.stages(x)
        return self.final(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """The last map to logits [B, num_classes], or to the embedding [B, D]."""
        return self.head(x, pre_logits=pre_logits)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


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


class VggGap(StagedNet):
    """VGG-16 without its last pooling, a convolution to 1024 channels, global average pooling, a linear classifier.

    Args:
        img_size: Below 64 pixels the fourth pooling is left out too.
    """

    def __init__(
        self,
        img_size: ImageSize = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
    ) -> None:
        pools = 3 if min(to_2tuple(img_size)) < 64 else 4
        stages: list[nn.Module] = []
        info: list[dict[str, Any]] = []
        chs = in_chans
        for index, widths in enumerate(VGG_WIDTHS):
            layers: list[nn.Module] = [nn.MaxPool2d(2) if 0 < index <= pools else nn.Identity()]
            for width in widths:
                layers += [nn.Conv2d(chs, width, 3, padding=1), nn.ReLU(inplace=True)]
                chs = width
            stages.append(nn.Sequential(*layers))
            info.append({"num_chs": chs, "reduction": 2 ** min(index, pools), "module": f"stages.{index}"})
        final = nn.Sequential(nn.Conv2d(chs, 1024, 3, padding=1), nn.ReLU(inplace=True))
        info.append({"num_chs": 1024, "reduction": 2**pools, "module": "final.1"})
        super().__init__(nn.Identity(), stages, final, info, num_classes, global_pool, drop_rate)


def from_vgg16(state_dict: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Weights of :class:`VggGap`: convolutions 1 to 5 of a VGG-16, the rest as the model was initialised.

    Raises:
        ValueError: ``state_dict`` lacks one of these convolutions.
    """
    if "final.0.weight" in state_dict:  # its own
        return state_dict
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d) and "stages" in name]
    sources = {
        f"{own}.{kind}": f"features.{place}.{kind}"
        for own, place in zip(names, VGG_CONVS, strict=True)
        for kind in ("weight", "bias")
    }
    if missing := [source for source in sources.values() if source not in state_dict]:
        raise ValueError(f"the weights must be those of a VGG-16, but they lack {', '.join(missing)}.")
    _logger.warning("The convolutions are those of the pretrained VGG-16; the last one and the classifier are new.")
    return model.state_dict() | {own: state_dict[source] for own, source in sources.items()}


class ResNetStride1(ResNet):
    """timm's ResNet-50 whose last stage has stride 1 and no dilation."""

    layer4: Any

    def __init__(self, **kwargs: Any) -> None:
        block: Any = Bottleneck
        super().__init__(block, (3, 4, 6, 3), **kwargs)
        first = self.layer4[0]
        first.conv2.stride = first.downsample[0].stride = (1, 1)
        self.feature_info[-1]["reduction"] = 16


def _cfg(**kwargs: Any) -> dict[str, Any]:
    sized = {"input_size": (3, 32, 32), "fixed_input_size": True, "num_classes": 10, "crop_pct": 1.0}
    colours = {"interpolation": "bilinear", "mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD}
    return {**sized, **colours, "first_conv": "stem.0", "classifier": "head.fc", **kwargs}


IMAGENET = {"input_size": (3, 224, 224), "num_classes": 1000, "crop_pct": 0.875, "license": "bsd-3-clause"}

default_cfgs = generate_default_cfgs(
    {
        "preact_resnet18": _cfg(),
        "wide_resnet16_8": _cfg(),
        "vgg16_gap.tv_in1k": _cfg(**IMAGENET, first_conv="stages.0.1", hf_hub_id="timm/vgg16.tv_in1k"),
        "resnet50_stride1.tv_in1k": _cfg(
            **IMAGENET,
            first_conv="conv1",
            classifier="fc",
            fixed_input_size=False,
            pool_size=(14, 14),
            hf_hub_id="timm/resnet50.tv_in1k",
        ),
    }
)


def _create(model_cls: type[nn.Module], name: str, pretrained: bool, taps: int, **kwargs: Any) -> Any:
    """A model, or its extractor of ``taps`` feature maps; its configuration tells the size it was built for."""
    features = {"flatten_sequential": issubclass(model_cls, StagedNet), "out_indices": tuple(range(taps))}
    net: Any = build_model_with_cfg(model_cls, name, pretrained, feature_cfg=features, **kwargs)
    if kwargs.get("img_size"):
        channels = net.pretrained_cfg["input_size"][0]
        net.pretrained_cfg["input_size"] = (channels, *to_2tuple(kwargs["img_size"]))
    return net


@register_model
def preact_resnet18(pretrained: bool = False, **kwargs: Any) -> PreActResNet:
    """Pre-activation ResNet-18: :class:`PreActResNet` of depths 2, 2, 2, 2."""
    return _create(PreActResNet, "preact_resnet18", pretrained, 5, **{"depths": (2, 2, 2, 2), **kwargs})


@register_model
def wide_resnet16_8(pretrained: bool = False, **kwargs: Any) -> PreActResNet:
    """WRN-16-8: :class:`PreActResNet` of depths 2, 2, 2, stem of 16 channels, first stage of 8 times as many."""
    args = {"depths": (2, 2, 2), "stem_width": 16, "width": 128, **kwargs}
    return _create(PreActResNet, "wide_resnet16_8", pretrained, 4, **args)


@register_model
def vgg16_gap(pretrained: bool = False, **kwargs: Any) -> VggGap:
    """VGG-GAP: :class:`VggGap`."""
    return _create(VggGap, "vgg16_gap", pretrained, 6, pretrained_filter_fn=from_vgg16, **kwargs)


@register_model
def resnet50_stride1(pretrained: bool = False, **kwargs: Any) -> ResNetStride1:
    """ResNet-50 with a map of 14 x 14 at 224 pixels: :class:`ResNetStride1`."""
    return _create(ResNetStride1, "resnet50_stride1", pretrained, 5, **kwargs)
