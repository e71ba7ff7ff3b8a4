"""Where published weights come from: what their card says, kept beside them as JSON."""

import contextlib
import functools
import importlib
import importlib.metadata
import platform
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import DatasetCard, HfApi

from .repo_id import is_name

OURS = "apache-2.0"  # licence of weights that were trained from random initialisation
UNKNOWN = "unknown"

_LOCAL = re.compile(
    r"(local-dir:|(?=[/~]))(.+)", re.IGNORECASE | re.DOTALL
)  # a folder as timm takes it; any absolute path
_PACKAGES = ("alignmix-timm", "torch", "timm", "accelerate", "datasets", "huggingface_hub")


@dataclass
class Dataset:
    """The data of a run.

    Attributes:
        name: On the Hub; of a local folder only its last part.
        on_hub: Whether others can find it by this name.
        license: As its own card states it; None if it states none, or has none.
        eval_split: Where the evaluation rows come from; with ``held_out``, they were kept out of the training on it.
    """

    name: str
    on_hub: bool = False
    config: str | None = None
    revision: str | None = None
    license: str | None = None
    train_rows: int | None = None
    eval_rows: int | None = None
    eval_split: str | None = None
    held_out: bool = False

    @property
    def evaluated(self) -> str | None:
        """Which rows were evaluated, in words."""
        return None if self.eval_split is None else rows_of(self.eval_split, self.held_out)


@dataclass
class Base:
    """The weights that a run began with; ``license`` is None if they state none."""

    name: str
    on_hub: bool = False
    license: str | None = None


@dataclass
class Provenance:
    """What a card says about how weights came to be.

    Attributes:
        dataset: What they were trained and measured on.
        results: The measurement of these weights, by the names of ``metrics.jsonl``; shares in percent.
        seed: Of the run.
        mixing: Where the model was mixed, and why there; None without mixing.
        updates: Optimizer steps of the run.
        step: The step after which the weights were saved.
        best_by: The measurement, by its name in ``metrics.jsonl``, in which they are the best of the run; None if they
            were not chosen by any.
        seconds: Time of training.
        base: None for random initialisation.
        command: Builds the weights again, where one command does.
        options: Of the run, those that are not defaults.
    """

    dataset: Dataset
    results: dict[str, float]
    seed: int
    mixing: str | None = None
    epochs: int | None = None
    updates: int | None = None
    step: int | None = None
    best_by: str | None = None
    seconds: float | None = None
    base: Base | None = None
    command: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    hardware: str = field(default_factory=lambda: hardware())
    versions: dict[str, str] = field(default_factory=lambda: versions())

    @property
    def license(self) -> str:
        """Of the weights: that of those they began with, else that of this project."""
        return OURS if self.base is None else self.base.license or UNKNOWN

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Provenance":
        """What :meth:`to_dict` returned."""
        base = values.get("base")
        return cls(**{**values, "dataset": Dataset(**values["dataset"]), "base": base and Base(**base)})


def rows_of(split: str, held_out: bool) -> str:
    """The evaluation rows of a split in words: a part of it that was held out, or all of it."""
    return f"held-out rows of the split {split}" if held_out else f"the split {split}"


def find_dataset(data: str | Path, config: str | None = None, revision: str | None = None) -> Dataset:
    """Name, commit and licence of a dataset: of a local folder, or on the Hub as far as that can be reached."""
    path = Path(data).expanduser()
    if path.exists() or not is_name(str(data)):
        return Dataset(_stated(path, "pretty_name") or path.resolve().name, license=_stated(path, "license"))
    commit, license = _on_the_hub(str(data), revision)
    return Dataset(str(data), True, config, commit or revision, license)


def local_path(name: str) -> Path | None:
    """The path in a name that means one of this machine: ``local-dir:PATH``, or an absolute path; else None."""
    found = _LOCAL.fullmatch(name)
    return Path(found[2]).expanduser().resolve() if found else None


def without_paths(value: Any) -> Any:
    """The same JSON value, with only the last part of each path that :func:`local_path` finds."""
    if isinstance(value, dict):
        return {name: without_paths(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [without_paths(inner) for inner in value]
    found = _LOCAL.fullmatch(value) if isinstance(value, str) else None
    return found[1] + Path(found[2]).resolve().name if found else value


@functools.cache
def _on_the_hub(name: str, revision: str | None) -> tuple[str | None, str | None]:
    """Commit and licence of a dataset; None where the Hub cannot be reached."""
    try:
        info = HfApi().dataset_info(name, revision=revision, timeout=10)
    except Exception:  # offline, or gone: the card then says less
        return None, None
    return info.sha, _text(info.card_data.get("license")) if info.card_data else None


def hardware() -> str:
    """The processors that this process sees."""
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    threads = torch.get_num_threads()
    return f"CPU {processor_name()}, {threads} thread{'s' if threads > 1 else ''}"


def processor_name() -> str:
    """The model of the processor, or at least its architecture."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return name or platform.machine()


def versions(packages: Iterable[str] = _PACKAGES) -> dict[str, str]:
    """Of Python and of these packages; one that is not there, or does not tell, is left out."""
    found = {name: _version(name) for name in packages}
    return {"python": platform.python_version(), **{name: number for name, number in found.items() if number}}


def _version(package: str) -> str:
    """As it was installed, else as it says itself: a checkout that is only on the path has no metadata."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    with contextlib.suppress(ImportError):
        return str(getattr(importlib.import_module(package.replace("-", "_")), "__version__", ""))
    return ""


def _stated(folder: Path, key: str) -> str | None:
    """What the README.md of a local dataset says."""
    card = folder / "README.md"
    try:
        return _text(DatasetCard.load(card).data.get(key)) if card.is_file() else None
    except Exception:  # somebody's README, in whatever form
        return None


def _text(value: Any) -> str | None:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else value and str(value)
