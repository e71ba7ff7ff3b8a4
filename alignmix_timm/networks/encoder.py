"""The paper's encoder on any timm backbone: stage F, an embedding f that sees positions, and the classifier g.

AlignMix, sections 3.1 and 4.1, ablation C.1. Behind global pooling, alignment of the last map changes nothing; f, a
fully-connected layer on the flattened map, or a convolution, tells positions apart. It is a timm architecture of its
own: after ``import alignmix_timm``, ``timm.create_model("alignmix_encoder", backbone="resnet18")`` builds it.
"""

import inspect
from typing import Any, Literal

import timm
import torch.nn.functional as F
from timm.models import build_model_with_cfg, generate_default_cfgs, get_pretrained_cfg, register_model
from torch import Tensor, nn

from ..points.probe import trace
from ..points.reading import MapReader

Embedding = Literal["flatten", "tensor"]

TENSOR_STRIDE = 2  # kernel and stride of the convolution from A to E


class FeatureMap(nn.Module):
    """Stage F: a timm backbone without pooling and classifier, and the map it ends with, [B, c, grid, grid].

    Larger maps are averaged down to the grid; tokens without a position are dropped.

    Raises:
        ValueError: the backbone does not end with a map, or with one smaller than the grid.
    """

    def __init__(self, backbone: str, image: tuple[int, int, int], grid: int, **options: Any) -> None:
        super().__init__()
        try:
            self.backbone: Any = timm.create_model(backbone, num_classes=0, global_pool="", **options)
            traced = trace(self.backbone, image)
        except Exception as error:  # timm and its models raise many kinds
            raise ValueError(f"backbone {backbone!r} cannot be built without pooling: {error}") from error
        last = traced.logits[0]
        found = MapReader(self.backbone, traced, image).read("")
        if found is None:
            raise ValueError(f"backbone {backbone!r} ends with {('B', *last.shape[1:])}, which is no map of positions.")
        self.layout, self.size = found
        if min(self.size) < grid:
            raise ValueError(
                f"grid must be at most the map of {backbone!r}, {self.size[0]} x {self.size[1]} at images of "
                f"{image[1]} x {image[2]}, got {grid}. Use larger images or a smaller grid."
            )
        self.num_features = last.shape[3 if self.layout.kind == "NHWC" else 1 if self.layout.kind == "NCHW" else 2]
        self.pool = nn.AdaptiveAvgPool2d(grid)

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W] to the feature tensor A, [B, c, grid, grid] (eq. 4)."""
        feats = self.backbone(images)
        if self.layout.kind != "NCHW":
            tokens, _ = self.layout.split(feats)
            feats = tokens.mT.unflatten(2, self.size)
        return self.pool(feats)


class Encoder(nn.Module):
    """F, f and g: images to the feature tensor A, the embedding e, and logits.

    Args:
        backbone: Any timm model that ends with a map of positions.
        embedding: ``flatten``: f is a fully-connected layer on the flattened map, e a vector; ``tensor``: f is a 2 x 2
            convolution of stride 2, and e a tensor E that can be aligned as well.
        embed_dim: Dimension of e; at the paper's grid of 4 a tensor of 512 is 128 x 2 x 2.
        grid: Height and width of A. The paper's is 4.
        img_size: Height and width of the images.
        in_chans, num_classes: As in timm; without classes the model returns e.
        drop_rate: Dropout before the classifier.
        drop_path_rate: Stochastic depth of the backbone.
        pretrained_backbone: Start from timm's weights of the backbone.
        backbone_args: More arguments of ``timm.create_model`` for the backbone.

    Raises:
        ValueError: the backbone has no usable map; ``embedding``, ``embed_dim`` and ``grid`` do not go together.
    """

    def __init__(
        self,
        backbone: str = "resnet18",
        embedding: Embedding = "flatten",
        embed_dim: int = 512,
        grid: int = 4,
        img_size: int | tuple[int, int] = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        pretrained_backbone: bool = False,
        backbone_args: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        options = {"in_chans": in_chans, "pretrained": pretrained_backbone, **(backbone_args or {})}
        if drop_path_rate:
            options["drop_path_rate"] = drop_path_rate
        known = get_pretrained_cfg(backbone)
        if known is not None and known.fixed_input_size:
            options.setdefault("img_size", (height, width))
        self.features = FeatureMap(backbone, (in_chans, height, width), grid, **options)
        side = _embedding_side(embedding, embed_dim, grid)
        kernel, stride = (grid, 1) if embedding == "flatten" else (TENSOR_STRIDE, TENSOR_STRIDE)
        self.channels, self.side = embed_dim // side**2, side
        self.embed = nn.Conv2d(self.features.num_features, self.channels, kernel, stride)
        self.drop_rate = drop_rate
        self.num_features = self.head_hidden_size = embed_dim
        self.reset_classifier(num_classes)

    def forward_features(self, images: Tensor) -> Tensor:
        """The feature tensor A, [B, c, grid, grid]."""
        return self.features(images)

    def forward_head(self, feats: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits [B, num_classes], or the embedding e, [B, embed_dim], of feature tensors."""
        embedding = self.embed(feats)
        return embedding.flatten(1) if pre_logits else self.classify(embedding)

    def classify(self, embedding: Tensor) -> Tensor:
        """Logits [B, num_classes] of embeddings as f returns them, [B, channels, side, side]."""
        return self.head(F.dropout(embedding, self.drop_rate, self.training)).flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W] to logits [B, num_classes]."""
        return self.forward_head(self.forward_features(images))

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """As in timm: recompute the backbone's activations in the backward pass."""
        self.features.backbone.set_grad_checkpointing(enable)

    def no_weight_decay(self) -> set[str]:
        """As in timm: names of the backbone's parameters that do not decay."""
        names: set[str] = getattr(self.features.backbone, "no_weight_decay", set)()
        return {f"features.backbone.{name}" for name in names}

    def get_classifier(self) -> nn.Module:
        """The classifier g; it reads the embedding."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a new classifier in place; there is no pooling to choose."""
        self.num_classes = num_classes
        # Kernels as large as the map, here and in f: fully-connected layers.
        self.head: nn.Module = nn.Conv2d(self.channels, num_classes, self.side) if num_classes else nn.Identity()


def _embedding_side(embedding: str, embed_dim: int, grid: int) -> int:
    """Height and width of the embedding."""
    if embedding == "flatten":
        side = 1
    elif embedding == "tensor":
        side = grid // TENSOR_STRIDE
    else:
        raise ValueError(f"embedding must be 'flatten' or 'tensor', got {embedding!r}.")
    if side < 1 or embed_dim < 1 or embed_dim % side**2:
        raise ValueError(
            f"embed_dim must be a multiple of the {side} x {side} positions of a {embedding} embedding at grid {grid}, "
            f"got {embed_dim}."
        )
    return side


default_cfgs = generate_default_cfgs(
    {"alignmix_encoder": {"fixed_input_size": True, "classifier": "head", "input_size": (3, 224, 224)}}
)


@register_model
def alignmix_encoder(pretrained: bool = False, **kwargs: Any) -> Encoder:
    """An :class:`Encoder`; ``pretrained`` is for weights of the whole.

    Images are normalised as for its backbone, where timm's registry knows it.
    """
    if not kwargs.get("pretrained_cfg"):
        backbone = kwargs.get("backbone") or inspect.signature(Encoder).parameters["backbone"].default
        known = get_pretrained_cfg(backbone)
        inherited = ("input_size", "mean", "std", "interpolation", "crop_pct") if known else ()
        overlay = {name: getattr(known, name) for name in inherited}
        if size := kwargs.get("img_size"):
            height, width = (size, size) if isinstance(size, int) else size
            overlay["input_size"] = (kwargs.get("in_chans", 3), height, width)
        kwargs["pretrained_cfg_overlay"] = {**overlay, **(kwargs.get("pretrained_cfg_overlay") or {})}
    return build_model_with_cfg(Encoder, "alignmix_encoder", pretrained, **kwargs)
