"""What the paper's networks share: the interface of timm's models, their configuration, and how they are built."""

from typing import Any

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import ClassifierHead, to_2tuple
from timm.models import build_model_with_cfg, checkpoint_seq
from torch import Tensor, nn

ImageSize = int | tuple[int, int]


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


def network_cfg(**kwargs: Any) -> dict[str, Any]:
    """timm's configuration of a network of this package, for CIFAR unless ``kwargs`` say otherwise."""
    sized = {"input_size": (3, 32, 32), "fixed_input_size": True, "num_classes": 10, "crop_pct": 1.0}
    colours = {"interpolation": "bilinear", "mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD}
    return {**sized, **colours, "first_conv": "stem.0", "classifier": "head.fc", **kwargs}


IMAGENET = {"input_size": (3, 224, 224), "num_classes": 1000, "crop_pct": 0.875, "license": "bsd-3-clause"}


def create(model_cls: type[nn.Module], name: str, pretrained: bool, taps: int, **kwargs: Any) -> Any:
    """A model, or its extractor of ``taps`` feature maps; its configuration tells the size it was built for."""
    features = {"flatten_sequential": issubclass(model_cls, StagedNet), "out_indices": tuple(range(taps))}
    net: Any = build_model_with_cfg(model_cls, name, pretrained, feature_cfg=features, **kwargs)
    if kwargs.get("img_size"):
        channels = net.pretrained_cfg["input_size"][0]
        net.pretrained_cfg["input_size"] = (channels, *to_2tuple(kwargs["img_size"]))
    return net
