"""Run by its path, in a process of its own: load a folder by plain timm, and write the logits of given images.

python load_plain.py FOLDER IMAGES LOGITS THREADS [--with-alignmix]
"""

import json
import sys
from pathlib import Path
from typing import Any


def main(folder: str, images: str, logits: str, threads: str, *flags: str) -> None:
    """Without the flag, this package cannot be imported in the process."""
    if "--with-alignmix" not in flags:
        sys.modules["alignmix_timm"] = None  # type: ignore[assignment]  # Python's own way to refuse an import
    try:
        import alignmix_timm
    except ImportError:
        alignmix_timm = None  # type: ignore[assignment]
    if (alignmix_timm is not None) != ("--with-alignmix" in flags):
        sys.exit("alignmix_timm must be importable only with --with-alignmix")
    import timm
    import torch
    from safetensors.torch import load_file, save_file

    torch.set_num_threads(int(threads))
    net = load(timm, Path(folder)).eval()
    with torch.no_grad():
        save_file({"logits": net(load_file(images)["images"])}, logits)


def load(timm: Any, folder: Path) -> Any:
    """By ``local-dir:``; an older timm builds the same from the arguments in the configuration."""
    if reads_folders(timm.__version__):
        return timm.create_model(f"local-dir:{folder}", pretrained=True)
    described = json.loads((folder / "config.json").read_text())
    args = {"num_classes": described["num_classes"], **described.get("model_args", {})}
    weights = str(folder / "model.safetensors")
    return timm.create_model(described["architecture"], checkpoint_path=weights, **args)


def reads_folders(version: str) -> bool:
    """Whether ``local-dir:`` of this timm reads safetensors."""
    return tuple(int(part) for part in version.split(".")[:3] if part.isdigit()) >= (1, 0, 26)


if __name__ == "__main__":
    sys.path.pop(0)  # the folder of this file, whose names would hide others
    main(*sys.argv[1:])
