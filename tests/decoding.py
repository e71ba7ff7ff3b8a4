"""Autoencoders for the tests: trained for a moment by a real run, or fresh."""

from pathlib import Path

import timm
import torch
from training import save_rows

from alignmix_timm import Autoencoder
from alignmix_timm.training.config import TrainConfig
from alignmix_timm.training.main import run


def train_autoencoder(folder: Path, test: int) -> Path:
    """The folder of a run of two epochs on 64 grey images, with as many held out as asked for."""
    config = TrainConfig(
        data=str(save_rows(folder / "data", train=64, test=test)),
        output=str(folder / "run"),
        model="preact_resnet18",
        model_args={"width": 4},
        method="alignmix_ae",
        modes=["clean"],
        embedding="flatten",
        embed_dim=32,
        grid=4,
        img_size=32,
        in_chans=1,
        mean=[0.4],
        std=[0.3],
        crop_pct=1.0,
        decoder_width=8,
        epsilon=0.05,
        epochs=2,
        batch_size=32,
        opt="adamw",
        lr=3e-3,
        workers=0,
    )
    run(config)
    return folder / "run"


def fresh_autoencoder(channels: int, variational: bool = False, epsilon: float = 0.05) -> Autoencoder:
    """An autoencoder with random weights for images of 32 pixels, in eval mode."""
    torch.manual_seed(0)
    args = dict(in_chans=channels, num_classes=10, img_size=32, embed_dim=32, backbone_args={"width": 4})
    net = timm.create_model("alignmix_encoder", backbone="preact_resnet18", **args)
    image = (channels, 32, 32)
    return Autoencoder(net, image, variational=variational, decoder_width=8, epsilon=epsilon).eval()
