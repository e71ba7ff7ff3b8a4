"""The rows of the paper's tables: what each method is called, and how it trains, as options of a training run."""

from dataclasses import dataclass, field
from typing import Any

from ..attaching import AttachOptions
from ..mixers import MIXERS

UNALIGNED = "alignmix_unaligned"  # a row of ours: the paper has it in Table 8 only
ALIGNMENT: AttachOptions = {"epsilon": 0.1, "num_iters": 100, "cost_scale": "raw"}  # of the paper's appendix B
_LAYERS = {"x": ["input"], "A": ["feat", "feat_swap"], "e": ["embed"], "E": ["embed"]}
_FINER = {"A2x2": {"grid": 2, "feature_module": "features"}, "A8x8": {"grid": 8, "model_args": {"last_stride": 1}}}


@dataclass(frozen=True)
class Method:
    """A way of training.

    Attributes:
        key, label: In files, and for readers.
        options: Of :class:`alignmix_timm.training.config.TrainConfig`; those of ``model_args``
            are added to the network's.
        missing: Why it does not run without files that the package does not bring; empty if it runs.
    """

    key: str
    label: str
    options: dict[str, Any] = field(default_factory=dict)
    missing: str = ""


def _mixer(key: str, label: str, mixer: str, missing: str = "", **arguments: Any) -> Method:
    """A method that is one mixer, with alpha = 2 as the paper trains all."""
    named = {f"{mixer}.{name}": value for name, value in arguments.items()}
    return Method(key, label, {"mixers": [mixer], "mixer_args": named}, missing)


def alignmix(architecture: str, layers: str, aligned: bool) -> dict[str, Any]:
    """The options of AlignMix.

    Args:
        architecture: ``alignmix``, or ``alignmix_ae`` or ``alignmix_vae`` with an autoencoder.
        layers: As Table 8 names them: ``x`` is the image, ``A`` the feature tensor, ``e`` a vector embedding, ``E`` a
            tensor; ``A2x2`` and ``A8x8`` have that resolution.
        aligned: Whether A, and a tensor embedding, are aligned. If not, A keeps the weight of its two directions.
    """
    names = layers.split(", ")
    modes = [mode for name in names for mode in _LAYERS[name[0]]]
    finer = next((_FINER[name] for name in names if name in _FINER), {})
    tensor = {"embedding": "tensor", "align_embedding": aligned} if "E" in names else {}
    assignment = "transport" if aligned else "none"
    return {"mixers": ["alignmix"], "method": architecture, "modes": modes, "assignment": assignment, **ALIGNMENT} | {
        **tensor,
        **finer,
    }


_ADAIN = "it needs the weights of AdaIN, which are files of others and not part of this package"
_METHODS = (
    Method("baseline", "no mixing", {"mixers": ["none"]}),
    _mixer("input", "input mixup", "mixup", alpha=2.0),
    _mixer("cutmix", "CutMix", "cutmix", alpha=2.0),
    _mixer("manifold", "manifold mixup", "manifold", alpha=2.0),
    _mixer("puzzlemix", "PuzzleMix", "puzzlemix", alpha=2.0),
    _mixer("comixup", "Co-Mixup", "comixup", alpha=2.0),
    _mixer("saliencymix", "SaliencyMix", "saliencymix", alpha=2.0),
    _mixer("stylemix", "StyleMix", "stylemix", _ADAIN, alpha=2.0),
    _mixer("stylecutmix", "StyleCutMix", "stylecutmix", _ADAIN, alpha=2.0),
    _mixer("cutout", "Cutout", "cutout"),
    Method("acol", "ACoL", missing="it is no way of mixing: its authors' number"),
    Method("adl", "ADL", missing="it is no way of mixing: its authors' number"),
    Method(UNALIGNED, "AlignMix, unaligned", alignmix("alignmix", "x, A, e", False)),
    Method("alignmix", "AlignMix", alignmix("alignmix", "x, A, e", True)),
    Method("alignmix_ae", "AlignMix/AE", alignmix("alignmix_ae", "x, A, e", True)),
)
METHODS = {method.key: method for method in _METHODS}


def ablated(row: str, aligned: bool) -> Method:
    """The method of a cell of Table 8, whose rows are a method and the layers it mixes: ``alignmix_ae x, A, e``."""
    name, _, layers = row.partition(" ")
    if not layers:
        return METHODS[name]
    plain = layers.replace("(mu, sigma)", "e").replace("(M, Sigma)", "E")
    return Method(row, row, alignmix(name, plain, aligned))


def is_ours(key: str) -> bool:
    """Whether a row is one of AlignMix, to be compared with those that are not."""
    return key.startswith("alignmix")


def normalised(options: dict[str, Any], mean: list[float], std: list[float]) -> dict[str, Any]:
    """The options, with the statistics of the images for the mixers that need them to know pixels."""
    arguments = dict(options.get("mixer_args", {}))
    for mixer in options.get("mixers", ()):
        known = {name: value for name, value in (("mean", mean), ("std", std)) if hasattr(MIXERS[mixer], name)}
        arguments |= {f"{mixer}.{name}": value for name, value in known.items()}
    return {**options, "mixer_args": arguments} if arguments else options
