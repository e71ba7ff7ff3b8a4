"""Codecs for the tests of mixers of style."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from alignmix_timm.mixers import AdaINCodec


@dataclass(frozen=True)
class Identity:
    """Images are their own features."""

    def encode(self, images: Tensor) -> Tensor:
        return images

    def decode(self, features: Tensor) -> Tensor:
        return features


def weight_files(folder: Path) -> dict[str, str]:
    """Options with weights in the layout of AdaIN's files; the encoder goes on after relu4_1, as theirs."""
    torch.manual_seed(0)
    codec, options = AdaINCodec(), {}
    parts = {
        "encoder": codec.encoder.state_dict() | {"32.weight": torch.zeros(1)},
        "decoder": codec.decoder.state_dict(),
    }
    for name, weights in parts.items():
        path = folder / f"{name}.pth"
        torch.save(weights, path)
        options |= {name: str(path), f"{name}_sha256": hashlib.sha256(path.read_bytes()).hexdigest().upper()}
    return options
