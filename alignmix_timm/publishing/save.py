"""Weights that plain timm loads: a folder of ``config.json``, ``model.safetensors`` and ``provenance.json``."""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from timm.models._hub import save_config_for_hf  # not public in the oldest supported timm
from torch import Tensor, nn

from ..attaching import detach
from .file_modes import follow_umask
from .provenance import Provenance

WEIGHTS, CONFIG, PROVENANCE = "model.safetensors", "config.json", "provenance.json"
FILES = (WEIGHTS, CONFIG, PROVENANCE)
KEPT_LOGITS = 8  # of each image, in provenance.json

# How far logits in this dtype may be from those in fp32, as a share of the largest, or of 1; TF32 counts as fp32.
TOLERANCE = {torch.float64: 1e-3, torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}

# torch.compile; DDP and EMA weights; AlignMixModel; Autoencoder and its variational encoder
_WRAPPED = ("_orig_mod", "module", "model", "classifier", "net")
_OF_OTHER_WEIGHTS = (
    *("tag", "custom_load", "label_offset", "label_names", "label_descriptions", "license", "description", "notes"),
    *("origin_url", "paper_name", "paper_ids", "test_input_size", "test_crop_pct", "test_pool_size"),
)


def save_for_timm(
    model: nn.Module,
    folder: str | Path,
    label_names: list[str],
    data: dict[str, Any],
    model_args: dict[str, Any] | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    provenance: Provenance | None = None,
) -> None:
    """Write a timm model as a folder, as on the Hub; :func:`alignmix_timm.push_to_hub` uploads it.

    ``timm.create_model("local-dir:FOLDER", pretrained=True)`` restores the model with timm 1.0.26 or later.

    Args:
        model: A timm model, or its AlignMixModel, Autoencoder, DDP, compiled or EMA form, in any precision and
            memory format; it is copied, and stays as it is.
        folder: Made, or replaced as a whole if it is one of this function; a link to a folder stays.
        label_names: Names of the classes.
        data: Input size (C, H, W), mean, std, interpolation and crop of the evaluation.
        model_args: Arguments of ``timm.create_model`` that the architecture needs, such as ``img_size``.
        dtype: Of the stored weights.
        provenance: What the card is to say; without it, the card only says how to use the model.

    Raises:
        ValueError: no timm model within; not as many names as classes; the folder holds something else;
            weights or ``dtype`` of another precision than those of ``TOLERANCE``.
        OSError: not written, such as on a full disk; the folder is as it was.
    """
    folder = Path(folder).resolve()
    check_replaceable(folder)
    copied = copy.deepcopy(unwrap(model)).eval()
    detach(copied)
    if len(label_names) != copied.num_classes:
        raise ValueError(
            f"label_names must name the {copied.num_classes} classes of the model, got {len(label_names)} names."
        )
    _check_dtype("the weights of model", next(copied.parameters()).dtype, "Convert it by model.float().")
    _check_dtype("dtype", dtype, "Leave it out for fp32.")
    size = tuple(data["input_size"])
    images = example_images(size)
    trained, described = _logits_as_trained(copied, images)
    copied = copied.cpu().float().to(memory_format=torch.contiguous_format)
    described |= _compare(trained, logits_of(copied, images), dtype)
    weights = {name: _stored(value, dtype) for name, value in copied.state_dict().items()}
    args = _size_args(size, copied.pretrained_cfg)
    copied.pretrained_cfg = _evaluated_by(data, copied, provenance)
    origin = {"saved": described, "run": None if provenance is None else provenance.to_dict()}

    def write(partial: Path) -> None:
        save_file(weights, partial / WEIGHTS, metadata={"format": "pt"})
        more = {"label_names": label_names, "model_args": model_args or {}}
        path: Any = partial / CONFIG  # a name of text, as its signature says, breaks older timm
        save_config_for_hf(copied, path, more)
        described = json.loads(path.read_text())  # timm notes the size that a model was built for
        described["pretrained_cfg"] |= data
        described["model_args"] = {**described.get("model_args", {}), **args, **(model_args or {})}
        described["model_args"].pop("num_classes", None)  # transformers passes it as well, by its number of labels
        path.write_text(json.dumps(described, indent=2))
        (partial / PROVENANCE).write_text(json.dumps(origin, indent=2))

    _replace(folder, write)


def load_for_timm(folder: str | Path) -> Any:
    """The model that :func:`save_for_timm` wrote, with any supported timm, by the arguments in its configuration."""
    described = json.loads((Path(folder) / CONFIG).read_text())
    channels = described["pretrained_cfg"]["input_size"][0]
    args = {"num_classes": described["num_classes"], "in_chans": channels, **described.get("model_args", {})}
    return timm.create_model(described["architecture"], checkpoint_path=str(Path(folder) / WEIGHTS), **args)


def unwrap(model: nn.Module) -> Any:
    """The timm model within its wrappers.

    Raises:
        ValueError: there is none.
    """
    inner: nn.Module | None = model
    while inner is not None and "pretrained_cfg" not in vars(inner):
        parts = {**vars(inner), **inner._modules}  # the network of an AlignMixModel is no submodule of it
        inner = next((parts[name] for name in _WRAPPED if isinstance(parts.get(name), nn.Module)), None)
    if inner is None:
        raise ValueError(f"model must be a timm model, or a wrapper of one, got {type(model).__name__}.")
    return inner


def example_images(size: tuple[int, ...]) -> Tensor:
    """The same two images of noise for every comparison, [2, C, H, W]."""
    return torch.randn(2, *size, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def logits_of(net: nn.Module, images: Tensor) -> Tensor:
    """Logits [B, C] in fp32 on the CPU, without what is compiled or hooked around the whole."""
    return net.forward(images).float().cpu()


def _logits_as_trained(net: nn.Module, images: Tensor) -> tuple[Tensor, dict[str, Any]]:
    """In the dtype, on the device and in the memory format of the weights, which are named."""
    first = next(net.parameters())
    last = any(
        value.ndim == 4 and not value.is_contiguous() and value.is_contiguous(memory_format=torch.channels_last)
        for value in net.parameters()
    )
    memory_format = torch.channels_last if last else torch.contiguous_format
    moved = images.to(first.device, first.dtype).contiguous(memory_format=memory_format)
    named = {"dtype": first.dtype, "device": first.device.type, "memory_format": memory_format}
    return logits_of(net, moved), {name: str(value).removeprefix("torch.") for name, value in named.items()}


def _compare(trained: Tensor, copied: Tensor, dtype: torch.dtype) -> dict[str, Any]:
    scale = max(1.0, copied.abs().max().item())
    return {
        "stored_as": str(dtype).removeprefix("torch."),
        "difference": (trained - copied).abs().max().item() / scale,
        "logits": copied[:, :KEPT_LOGITS].tolist(),
    }


def _check_dtype(what: str, dtype: torch.dtype, remedy: str) -> None:
    if dtype not in TOLERANCE:
        raise ValueError(f"{what} must be of one of {', '.join(map(str, TOLERANCE))}, got {dtype}. {remedy}")


def _stored(value: Tensor, dtype: torch.dtype) -> Tensor:
    """A tensor of its own: tied weights share one, which safetensors refuses."""
    return value.to(dtype if value.is_floating_point() else value.dtype).contiguous().clone()


def _size_args(size: tuple[int, ...], config: dict[str, Any]) -> dict[str, Any]:
    """Arguments for channels and size other than the architecture's own, which older timm does not note."""
    args: dict[str, Any] = {"in_chans": size[0]} if size[0] != 3 else {}
    if config.get("fixed_input_size") and size[1:] != tuple(config["input_size"][1:]):
        args["img_size"] = list(size[1:])
    return args


def _evaluated_by(data: dict[str, Any], net: Any, provenance: Provenance | None) -> dict[str, Any]:
    """The model's configuration with our evaluation, and without what describes the weights it began with."""
    kept = {name: value for name, value in net.pretrained_cfg.items() if name not in _OF_OTHER_WEIGHTS}
    if tuple(data["input_size"]) != tuple(kept["input_size"]):
        kept["pool_size"] = None
    data = {name: tuple(value) if isinstance(value, list) else value for name, value in data.items()}
    licensed = {} if provenance is None else {"license": provenance.license}
    return {**kept, **data, **licensed, "num_classes": net.num_classes}


def check_replaceable(folder: Path) -> None:
    """Raise ValueError if there is anything at this path but an empty folder or one of :func:`save_for_timm`."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ValueError(f"{folder} must be a folder, and is a file: pass another.")
    found = {path.name for path in folder.iterdir()}
    others = sorted(found - set(FILES) if _is_ours(folder / PROVENANCE) else found)
    if others:
        raise ValueError(
            f"{folder} would be replaced as a whole, and holds {others[0]!r}, which was not saved for timm: pass "
            "another folder, or move that elsewhere."
        )


def _is_ours(provenance: Path) -> bool:
    try:
        return "saved" in json.loads(provenance.read_text())
    except (OSError, ValueError, TypeError):
        return False


def _replace(folder: Path, write: Callable[[Path], None]) -> None:
    """Write under another name, then rename: the folder is the old one or the new one, whole."""
    partial, old = (folder.with_name(f".{folder.name}.{name}") for name in ("partial", "old"))
    if old.exists() and not folder.exists():  # a process was killed between the two renames
        old.rename(folder)
    for leftover in (partial, old):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        write(partial)
        follow_umask(partial)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise OSError(f"the model could not be written to {folder}: {error}. What was there is intact.") from error
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
