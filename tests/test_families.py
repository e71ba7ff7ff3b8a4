"""One training step in each mode, and the effect of alignment, for the smallest model of every family of timm.

pytest tests/test_families.py            # a dozen families
pytest -m slow tests/test_families.py    # all of families.txt
"""

import gc
from pathlib import Path

import pytest
import timm
import torch

from alignmix_timm import AlignMixModel, draw
from alignmix_timm.points.effect import NO_EFFECT, alignment_effect

NAMES = (Path(__file__).parent / "families.txt").read_text().split()
QUICK = (
    "resnet10t",
    "vit_tiny_patch16_224",
    "convnext_atto",
    "regnetx_002",
    "levit_128s",
    "ghostnet_050",
    "mobilenetv3_small_050",
    "xcit_nano_12_p16_224",
    "repvgg_a0",
    "edgenext_xx_small",
    "repghostnet_050",
    "efficientformerv2_s0",
)
REFUSED = ("crossvit_tiny_240", "tnt_s_legacy_patch16_224")  # no single map that the logits depend on alone
TOO_LARGE = ("deepseek_vit_412m", "gemma4_vit_167m", "qwen3_vit_88m")  # 0.4 G parameters, or images of 768 pixels


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in NAMES)])
def test_trains_in_every_mode_and_alignment_matters(name: str) -> None:
    if name in TOO_LARGE:
        pytest.skip("a training step takes more than 15 GiB")
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=10)
    if name in REFUSED:
        with pytest.raises(ValueError, match="has no map of at least 4 x 4"):
            AlignMixModel(net)
        return
    model = AlignMixModel(net).train()
    images = torch.randn(3, *model.hooks.point.input_size)
    for mode in ("none", "input", "embed", "feat", "feat_swap"):
        model.zero_grad()
        output = model(images, torch.arange(3), draw(3, 0, 0, modes=(mode,)))
        output.loss.backward()
        assert output.loss.isfinite()
        assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in net.parameters())
    assert model.hooks.transport.marginal_error.mean() < 0.1
    model.detach()
    effect = alignment_effect(net, model.hooks.point)
    del model, net
    gc.collect()
    assert effect > NO_EFFECT
