"""Trained networks to measure on: small ones of several families, trained once on the embedded images; and photos."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor, nn
from torch.nn import functional as F

from alignmix_timm.alignment import Alignment
from alignmix_timm.paper.images import Images, load
from alignmix_timm.points import MixingPoint, choose_point, choose_points, unannounced
from alignmix_timm.points.maps import MIN_SIZE, FeatureMaps
from alignmix_timm.points.positions import Positions, tokens_at

EMBEDDED = Path(__file__).parent / "data" / "fashion_mnist"


@dataclass(frozen=True)
class Training:
    """How a network is trained.

    Args:
        epochs: Over a quarter of the images.
        size: Of these images, and of those on which the network is measured, in pixels.
        optimizer: Of all parameters.
        lr: The highest of one cycle.
        options: Of ``timm.create_model``.
    """

    epochs: int
    size: int
    optimizer: Callable[..., torch.optim.Optimizer]
    lr: float
    options: dict[str, Any] = field(default_factory=dict)


_sgd = partial(torch.optim.SGD, momentum=0.9, weight_decay=5e-4, nesterov=True)
_adamw = partial(torch.optim.AdamW, weight_decay=0.05)
NETWORKS = {
    "resnet18": Training(4, 64, _sgd, 0.05),
    "convnext_atto": Training(6, 64, _adamw, 2e-3),
    "test_vit": Training(12, 112, _adamw, 2e-3, {"img_size": 112}),
}


def trained(name: str, folder: Path, seed: int = 0) -> nn.Module:
    """One of the networks, trained without mixing, in eval mode; the folder keeps its weights."""
    how, file = NETWORKS[name], folder / f"{name}-{seed}.safetensors"
    torch.manual_seed(seed)
    net = timm.create_model(name, num_classes=10, **how.options)
    if file.exists():
        net.load_state_dict(load_file(file))
    else:
        train_set, _, _ = load(EMBEDDED, how.size)
        _train(net, train_set.subset(len(train_set) // 4, seed, augment=True), how)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(net.state_dict(), file)
    return net.eval()


def _train(net: nn.Module, images: Images, how: Training) -> None:
    optimizer = how.optimizer(net.parameters(), lr=how.lr)
    loader = torch.utils.data.DataLoader(images, 64, shuffle=True, drop_last=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, how.lr, total_steps=how.epochs * len(loader))
    for _ in range(how.epochs):
        for pixels, labels in loader:
            loss = F.cross_entropy(net(pixels), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def test_images(count: int, size: int) -> tuple[Tensor, Tensor]:
    """Test images drawn at random, as the networks take them, and their labels."""
    _, test, _ = load(EMBEDDED, size)
    chosen = test.subset(count, seed=0, augment=False)
    return chosen.pixels.float() / 127.5 - 1, chosen.labels


@torch.no_grad()
def accuracy(net: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of right answers."""
    logits = torch.cat([net(part) for part in images.split(50)])
    return (logits.argmax(1) == labels).double().mean().item()


def photos(net: nn.Module, data: str, count: int) -> Tensor:
    """The first images of the column ``image``, as the network was trained to see them."""
    rows = datasets.load_dataset(data, split="train").cast_column("image", datasets.Image()).select(range(count))
    transform = create_transform(**resolve_model_data_config(net), is_training=False)
    return torch.stack([transform(image.convert("RGB")) for image in rows["image"]])


def neighbourhood(net: nn.Module, images: Tensor) -> tuple[str, list[MixingPoint]]:
    """The default place for these images, and three places around it: the blocks before and after, or the two before.

    A block whose map is too small for a default place is none of them.
    """
    size = (images.shape[1], images.shape[2], images.shape[3])
    with unannounced():
        default = choose_point(net, size).feature_module
        maps = FeatureMaps(net, size)
        blocks = [name for name in maps.blocks() if min(maps.read(name)[1]) >= MIN_SIZE]
        first = min(max(blocks.index(default) - 1, 0), len(blocks) - 3)
        return default, choose_points(net, size, blocks[first : first + 3])


def tokens(net: nn.Module, images: Tensor, points: Sequence[MixingPoint]) -> list[tuple[Tensor, Tensor]]:
    """At each place, the tokens of the first half of the images and those of the other half, [pairs, N, D]."""
    places = [Positions.of(point, Alignment(max_positions=math.prod(point.map_size))) for point in points]  # no blocks
    half = len(images) // 2
    return [(found[:half], found[half:]) for found in tokens_at(net, places, images)]
