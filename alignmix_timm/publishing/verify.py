"""Before a folder is uploaded: does plain timm, without this package, give the logits of these weights?"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from timm.models import is_model, model_entrypoint
from torch import Tensor

from .load_plain import reads_folders
from .provenance import without_paths
from .save import FILES, KEPT_LOGITS, PROVENANCE, TOLERANCE, example_images, load_for_timm, logits_of


def check_folder(folder: str | Path) -> str:
    """Load a folder of :func:`alignmix_timm.save_for_timm` in a process that cannot import this package.

    Its logits must be bit-equal to those of a contiguous fp32 copy on the CPU, for the same images and as many threads;
    and those must be near the ones noted when the folder was saved, of the model as it was trained.

    Returns:
        What was found, in words.

    Raises:
        ValueError: not such a folder; other logits; an architecture, or a backbone, that nobody else has.
    """
    folder = Path(folder)
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{folder} must be a folder of save_for_timm, it has no {' and no '.join(missing)}.")
    try:
        described = json.loads((folder / "config.json").read_text())
        saved = json.loads((folder / PROVENANCE).read_text())["saved"]
        architecture, size = described["architecture"], described["pretrained_cfg"]["input_size"]
        if not is_model(architecture):
            raise ValueError(f"timm {timm.__version__} has no architecture {architecture!r}")
        images = example_images(size)
        expected = logits_of(load_for_timm(folder).eval(), images)
    except (SafetensorError, KeyError, ValueError, RuntimeError, TypeError) as error:
        raise ValueError(f"{folder} cannot be loaded: {error}. Save the model again.") from error
    args = described.get("model_args", {})
    if without_paths(args) != args:
        raise ValueError(
            f"{folder} is built from a folder of this machine, which nobody else has: model_args {args}. Not "
            "published: train it from a model of timm's, or from hf-hub:USER/NAME."
        )
    seen = _check_saved(folder, saved, expected)
    package = needs_package(architecture)
    found = _logits_in_isolation(folder, images, package)
    if not torch.equal(found, expected):
        raise ValueError(
            f"plain timm gives other logits for {folder} than its weights do, by up to "
            f"{(found - expected).abs().max():.3g}: not published. Save the model again; if it stays so, report it."
        )
    otherwise = f"checkpoint_path, since timm {timm.__version__} cannot read folders:"
    how = "local-dir:" if reads_folders(timm.__version__) else otherwise
    loader = "timm and alignmix_timm" if package else "plain timm"
    return f"Checked: {loader} loads {folder} ({how}) with logits bit-equal to those of its weights in fp32; {seen}"


def needs_package(architecture: str) -> bool:
    """Whether ``import alignmix_timm`` registers this architecture, so that timm alone does not have it."""
    return (
        is_model(architecture)
        and model_entrypoint(architecture).__module__.partition(".")[0] == __package__.partition(".")[0]
    )


def _logits_in_isolation(folder: Path, images: Tensor, with_package: bool) -> Tensor:
    environment = {name: value for name, value in os.environ.items() if "TOKEN" not in name}
    environment |= {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    if with_package:
        root = str(Path(__file__).parents[2])
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, environment.get("PYTHONPATH")]))
    script = Path(__file__).with_name("load_plain.py")
    with tempfile.TemporaryDirectory() as temporary:
        given, written = (str(Path(temporary) / name) for name in ("images", "logits"))
        try:
            save_file({"images": images}, given)
        except SafetensorError as error:
            raise OSError(f"the check needs some room in {temporary}: {error}.") from error
        line = [sys.executable, str(script), str(folder.resolve()), given, written, str(torch.get_num_threads())]
        line += ["--with-alignmix"] * with_package
        done = subprocess.run(line, cwd=temporary, env=environment, capture_output=True, text=True)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise ValueError(f"plain timm cannot load {folder}, so it is not published: {last}")
        return load_file(written)["logits"]


def _check_saved(folder: Path, saved: dict[str, Any], logits: Tensor) -> str:
    """Compare with what was noted when the folder was saved; say what holds."""
    kept = torch.tensor(saved["logits"])
    moved = (kept - logits[:, :KEPT_LOGITS]).abs().max().item() / max(1.0, kept.abs().max().item())
    bound = max(TOLERANCE[getattr(torch, saved[name])] for name in ("stored_as", "dtype"))
    form = f"as trained ({saved['dtype']}, {saved['memory_format']}, {saved['device']})"
    for difference, what in ((moved, "when they were saved"), (saved["difference"], form)):
        if not difference <= bound:
            raise ValueError(
                f"the logits of {folder} differ from those {what} by {difference:.3g} of the largest, more than "
                f"{bound:g}: not published. Save the model again."
            )
    return f"they differ from those {form} by {saved['difference']:.2g} of the largest, at most {bound:g} is allowed."
