"""A trained autoencoder from the folder of its run, for pictures and measurements."""

from dataclasses import replace
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..networks.autoencoder import Autoencoder
from .build import build_model, without_weights, wrap_model
from .checkpoint import find
from .config import TrainConfig, read_yaml
from .data.transforms import data_config
from .mixing import build_mixer


def saved_config(folder: str | Path) -> TrainConfig:
    """The options of the run in this folder, or of the one that this checkpoint belongs to.

    Raises:
        ValueError: neither a run nor a checkpoint.
    """
    config = TrainConfig(**read_yaml(find(str(folder)) / "config.yaml"))
    config.check()
    return config


def load_autoencoder(folder: str | Path) -> Autoencoder:
    """Encoder, classifier and decoder as a run trained them, in eval mode, on the CPU.

    The weights are those after the last optimizer step, not the EMA weights: the decoder was trained with them.

    Args:
        folder: Of a run, which stands for its last checkpoint, or of one of its checkpoints.

    Raises:
        ValueError: neither a run nor a checkpoint; a run without a decoder; weights that cannot be read or do not fit.
    """
    config = replace(without_weights(saved_config(folder)), compile=False)
    if config.method == "alignmix":
        raise ValueError(
            f"{str(folder)!r} must be a run with a decoder, and was trained with --method alignmix. Train one with "
            "--method alignmix_ae or alignmix_vae."
        )
    path = find(str(folder)) / "model.safetensors"
    try:
        weights = load_file(path)
        net = build_model(config, _num_classes(weights))
        model = wrap_model(net, config, data_config(net, config), build_mixer(config))
        model.load_state_dict(weights)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"the weights in {path} cannot be loaded: {error}") from error
    assert isinstance(model, Autoencoder)
    return model.eval()


def _num_classes(weights: dict[str, Tensor]) -> int:
    """Classes of the encoder's classifier, which is one module deeper in the variational autoencoder."""
    names = ("classifier.head.weight", "classifier.net.head.weight")
    return next(len(weights[name]) for name in names if name in weights)
