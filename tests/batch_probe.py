"""What a training step really saw, read by torch's global module hooks: no part of the launcher knows of it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.loss import BinaryCrossEntropy, SoftTargetCrossEntropy
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from alignmix_timm import alignmix, draw


@dataclass
class Batch:
    """One training batch: the model's images, the map before and after mixing, the loss's targets."""

    images: Tensor
    feats: Tensor | None = None
    mixed_feats: Tensor | None = None
    embedding: Tensor | None = None
    mixed_embedding: Tensor | None = None
    targets: Tensor | None = None


@dataclass
class Probe:
    """Records the training batches of the models that have these modules.

    Args:
        feature_module, following: The module that is mixed after, and the one that reads its output.
        classifier: The module that is mixed before; ``pool`` makes its input.
    """

    feature_module: str = "layer3.0"
    following: str = "layer4.0"
    pool: str = "global_pool"
    classifier: str = "fc"
    batches: list[Batch] = field(default_factory=list)
    _names: dict[int, str] = field(default_factory=dict)

    def __enter__(self) -> "Probe":
        self._handles = [register_module_forward_pre_hook(self._before), register_module_forward_hook(self._after)]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _before(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        modules = dict(module.named_modules())
        if self.classifier in modules and self.feature_module in modules and module.training:
            self._names = {id(part): name for name, part in modules.items()}
            self.batches.append(Batch(args[0].detach().float().clone()))
        elif isinstance(module, SoftTargetCrossEntropy | BinaryCrossEntropy) and self.batches:
            self.batches[-1].targets = args[1].detach().clone()
        elif self._names.get(id(module)) == self.following and module.training:
            self.batches[-1].mixed_feats = args[0].detach().float()

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        name = self._names.get(id(module))
        if name is None or not module.training:
            return
        if name == self.feature_module:
            self.batches[-1].feats = output.detach().float()
        elif name == self.pool:
            self.batches[-1].embedding = output.detach().float()
        elif name == self.classifier:
            self.batches[-1].mixed_embedding = args[0].detach().float()


LEVELS = torch.tensor([40.0, 100.0, 160.0, 220.0])  # brightness of the classes of ``write_images``
MEAN, STD = torch.tensor(IMAGENET_DEFAULT_MEAN), torch.tensor(IMAGENET_DEFAULT_STD)


def write_images(folder: Path, per_class: int, split: str = "train", size: int = 64) -> None:
    """Noise of four brightnesses, as files of four classes: the class can be read off an image, or off a mix of two."""
    rng = np.random.default_rng(0)
    for label, level in enumerate(LEVELS.tolist()):
        target = folder / split / f"class{label}"
        target.mkdir(parents=True, exist_ok=True)
        for number in range(per_class):
            pixels = level + rng.integers(-30, 31, (size, size, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(target / f"{number}.png")


def check_batch(
    batch: Batch, step: int, rank: int = 0, *, smoothing: float = 0.1, rtol: float = 1e-4, **drawing: Any
) -> str:
    """Compare a batch with what was drawn for it, computed here by hand; return its mode.

    Args:
        batch: From the probe.
        step, rank: Of the batch.
        smoothing: Of the labels.
        rtol: Tolerance of mixed features, relative to the largest.
        **drawing: Options of ``draw``.
    """
    params = draw(len(batch.images), 42, step, rank, **drawing)
    brightness = 255 * (batch.images.mean((2, 3)) * STD + MEAN).mean(1)
    shares = (batch.targets - smoothing / 4) / (1 - smoothing)
    if params.mode == "input":
        assert torch.allclose(shares @ LEVELS, brightness, atol=2)
        assert (
            torch.minimum((shares.amax(1) - params.lam).abs(), (shares.amax(1) - 1 + params.lam).abs()).median() < 1e-5
        )
    else:
        own = F.one_hot(((brightness - 40) / 60).round().long(), 4).float()
        lam = params.lam[:, None]
        assert torch.allclose(shares, lam * own + (1 - lam) * own[params.perm], atol=1e-5)
    feats, embedding = batch.feats, batch.embedding
    if params.mode in ("feat", "feat_swap"):
        tokens = feats.flatten(2).mT
        feats = alignmix(tokens, tokens[params.perm], params.lam).mT.unflatten(2, feats.shape[2:])
    if params.mode == "embed":
        embedding = params.lam[:, None] * embedding + (1 - params.lam[:, None]) * embedding[params.perm]
    for expected, found in ((feats, batch.mixed_feats), (embedding, batch.mixed_embedding)):
        assert (expected - found).abs().max() <= rtol * expected.abs().max()
    return params.mode
