"""VGG-GAP: VGG-16 with a 3 x 3 convolution and global average pooling in the place of its fully connected layers.

Zhou et al., https://arxiv.org/abs/1512.04150. Convolutions 1 to 5 are those of timm's ``vgg16.tv_in1k``. ``img_size``
decides how often the map is halved: the last is 4 x 4 at 32 and at 64 pixels.
"""

import logging
from typing import Any

from timm.layers import to_2tuple
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from .staged import IMAGENET, ImageSize, StagedNet, create, network_cfg

_logger = logging.getLogger(__name__)

VGG_WIDTHS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
VGG_CONVS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)  # their places among the ``features`` of timm's vgg16


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


default_cfgs = generate_default_cfgs(
    {"vgg16_gap.tv_in1k": network_cfg(**IMAGENET, first_conv="stages.0.1", hf_hub_id="timm/vgg16.tv_in1k")}
)


@register_model
def vgg16_gap(pretrained: bool = False, **kwargs: Any) -> VggGap:
    """VGG-GAP: :class:`VggGap`."""
    return create(VggGap, "vgg16_gap", pretrained, 6, pretrained_filter_fn=from_vgg16, **kwargs)
