"""The model to evaluate: wherever it comes from, as logits of pixels in [0, 1]."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
from huggingface_hub import try_to_load_from_cache
from timm.data import resolve_model_data_config
from torchvision import transforms

from ..evaluation.pixel_model import PixelModel
from ..points import built_for
from ..points.normalization import for_channels
from ..points.weights import trained_model
from ..publishing.evaluation import sha256_of
from ..publishing.load_plain import reads_folders
from ..publishing.save import CONFIG, PROVENANCE, WEIGHTS, load_for_timm
from ..training.data.transforms import eval_transform


@dataclass(frozen=True)
class Subject:
    """A model to evaluate.

    Attributes:
        model: Its logits.
        preprocessing: Input size (C, H, W), interpolation, crop, mean and std of its evaluation, as timm names them.
        transform: From a PIL image to pixels [C, H, W] in [0, 1], by these.
        label_names: Names of its classes in order; None where it stores none.
        described: For ``evaluation.json``: name, architecture, weights, their hash, classes, preprocessing.
        folder: Its folder, if it was saved for timm in one.
        run: The folder of the run that trained it, if that is known.
    """

    model: PixelModel
    preprocessing: dict[str, Any]
    transform: transforms.Compose
    label_names: list[str] | None
    described: dict[str, Any]
    folder: Path | None
    run: Path | None

    @property
    def mode(self) -> str:
        """Pillow's mode of the images: ``L`` for one channel, else ``RGB``."""
        return "L" if self.preprocessing["input_size"][0] == 1 else "RGB"


def load_subject(name: str, weights: Path | None = None) -> Subject:
    """Load a model.

    Args:
        name: Folder of a run (its ``model/`` is taken), or one saved for timm; ``hf-hub:USER/NAME``; or of timm.
        weights: File of its weights, in place of those that it comes with.

    Raises:
        ValueError: there is no such model, it has no weights or no classifier; says what to pass.
    """
    folder = _model_folder(name)
    net = _load(name, folder, weights)
    classes = getattr(net, "num_classes", 0)
    if not classes:
        raise ValueError(f"model must be a classifier, got {name!r}, which has no classes. Pass one that was trained.")
    config = resolve_model_data_config(net)
    config["input_size"] = built_for(net)
    for key in ("mean", "std"):
        config[key] = for_channels(config[key], config["input_size"][0])
    label_names = net.pretrained_cfg.get("label_names")
    described = {
        "name": name if folder is None else _name_of(folder.resolve()),
        "architecture": net.pretrained_cfg["architecture"],
        **_origin(name, folder, weights, net),
        "classes": classes,
        "preprocessing": config,
    }
    model = PixelModel(net, config["mean"], config["std"])
    names = None if label_names is None or len(label_names) != classes else [str(label) for label in label_names]
    return Subject(model, config, pixel_transform(config), names, described, folder, _run_of(folder))


def pixel_transform(preprocessing: dict[str, Any]) -> transforms.Compose:
    """From a PIL image to pixels [C, H, W] in [0, 1], as timm evaluates with this preprocessing."""
    steps = eval_transform(preprocessing).transforms
    return transforms.Compose([step for step in steps if not isinstance(step, transforms.Normalize)])


def _model_folder(name: str) -> Path | None:
    """The folder saved for timm that a name means; None if it means none."""
    path = Path(name.removeprefix("local-dir:")).expanduser()
    if name.startswith("hf-hub:") or not path.is_dir():
        return None
    for folder in (path, path / "model"):
        if (folder / CONFIG).is_file():
            return folder
    if timm.is_model(name):
        return None
    raise ValueError(
        f"model must be the folder of a run, or one saved for timm; {str(path)!r} has no {CONFIG}, and no model/ with "
        "one, which a run writes at its end. Resume the run, or pass another folder."
    )


def _name_of(folder: Path) -> str:
    return folder.parent.name if folder.name == "model" else folder.name


def _load(name: str, folder: Path | None, weights: Path | None) -> Any:
    if folder is None:
        return trained_model(name, weights)
    if weights is None and not reads_folders(timm.__version__):
        described = json.loads((folder / CONFIG).read_text())
        net = load_for_timm(folder).eval()
        net.pretrained_cfg = {**net.pretrained_cfg, **described["pretrained_cfg"]}
        net.pretrained_cfg["label_names"] = described.get("label_names")
        return net
    return trained_model(f"local-dir:{folder}", weights)


def _origin(name: str, folder: Path | None, weights: Path | None, net: Any) -> dict[str, Any]:
    """Which weights these are, in words, and what identifies them."""
    if weights is not None:
        return {"weights": weights.name, "sha256": sha256_of(weights)}
    if folder is not None:
        file = folder / WEIGHTS
        digest = sha256_of(file) if file.is_file() else _sha256_of_tensors(net)
        return {"weights": _trained(folder) or file.name, "sha256": digest}
    if name.startswith("hf-hub:"):
        repo_id, _, revision = name.removeprefix("hf-hub:").partition("@")
        cached = try_to_load_from_cache(repo_id, CONFIG, revision=revision or None)
        commit = Path(cached).parent.name if isinstance(cached, str) else revision or None
        return {"weights": repo_id, "revision": commit, "sha256": _sha256_of_tensors(net)}
    tag = net.pretrained_cfg.get("tag")
    return {"weights": f"pretrained, {tag or 'no tag'}", "sha256": _sha256_of_tensors(net)}


def _trained(folder: Path) -> str | None:
    """Which weights of its run a folder holds; None where it tells nothing."""
    path = folder / PROVENANCE
    run = json.loads(path.read_text())["run"] if path.is_file() else None
    if not run or run.get("step") is None:
        return None
    best = run.get("best_by")
    ema = "EMA weights" if (best or "").startswith("ema_") else "weights"
    return f"{ema} {'of the best evaluation, ' if best else ''}after optimizer step {run['step']} of {run['updates']}"


def _run_of(folder: Path | None) -> Path | None:
    """The folder of the run whose ``model/`` this is."""
    run = None if folder is None else folder.resolve().parent
    return run if run and (run / "config.yaml").is_file() and (run / "metrics.jsonl").is_file() else None


def _sha256_of_tensors(net: Any) -> str:
    """Of names, shapes and values, in the order of names: the same whatever file they come from."""
    digest = hashlib.sha256()
    for name, value in sorted(net.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
