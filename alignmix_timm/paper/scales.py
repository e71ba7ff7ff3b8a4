"""What a cell of a table is at each scale: the run that fills it, named by its scale, config and seed.

``paper`` is the paper's appendix B, by the training engine and the files of ``recipes/configs``. ``small`` is for two
CPU cores: a narrow network on few images, which stay in memory, trained by :mod:`alignmix_timm.paper.on_device`.
"""

import functools
from pathlib import Path
from typing import Any, Literal

import yaml
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from .methods import METHODS, UNALIGNED, Method, ablated, is_ours, normalised
from .numbers import Column, PaperTable
from .results import Line

Scale = Literal["small", "paper"]
SCALES: tuple[Scale, ...] = ("small", "paper")
STANDS_FOR = {"cifar10": "fashion_mnist", "cifar100": "cifar100"}  # what the small scale trains on instead
_LABELS = {
    "cifar10": ("CIFAR-10, R-18", "Fashion-MNIST"),
    "cifar100": ("CIFAR-100, R-18", "20 classes of CIFAR-100"),
}
SEEDS = {"small": 5, "paper": 3}
FEWER = 3  # seeds of the methods that are not compared in pairs with AlignMix's own
PAIRED = ("baseline", "cutmix", "manifold", "alignmix_unaligned", "alignmix")
CONFIGS = {  # of recipes/configs, by the data of a column
    "cifar10": "cifar10",
    "cifar100": "cifar100",
    "tiny_imagenet": "tiny_imagenet",
    "imagenet300": "imagenet_resnet50_300",
    "imagenet100": "imagenet_resnet50_100",
    "cub": "cub",
}
_OF_A_GPU = {"imagenet300": 100, "imagenet100": 64}  # images on each of four GPUs, which batch norm sees
_IMAGENET = {"mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD}
_BY_NETWORK = {"vgg16_gap": {"lr": 0.001}}  # as recipes/configs/cub.yaml says


def cell(scale: Scale, column: Column, method: Method, configs: Path) -> dict[str, Any] | None:
    """The config of the runs of a cell; None if the scale has none for this column.

    Args:
        configs: The folder ``recipes/configs``, for the scale ``paper``.

    Raises:
        ValueError: there is no such folder.
    """
    if scale == "paper":
        options = {"data": column.data, **_paper_options(configs, column.data), "model": column.network}
        options |= _BY_NETWORK.get(column.network, {})
        if column.data in _OF_A_GPU:
            options |= {"micro_batch_size": _OF_A_GPU[column.data]}
            if method.options.get("method", "alignmix") != "alignmix":
                options |= {"embedding": "flatten"}  # what is decoded
            elif method.options["mixers"] == ["alignmix"]:
                options |= {"align_size": 4}
    else:
        data = STANDS_FOR.get(column.data)
        if data is None or column.network != "preact_resnet18":
            return None
        settings = _read(Path(__file__).parent / "small.yaml")
        options = {"data": data, **settings["common"], **settings[data]}
        if "A8x8" in method.key:
            return None  # the stem of stride 2 leaves no finer map
    model_args = {**options.get("model_args", {}), **method.options.get("model_args", {})}
    options |= method.options
    options |= {"model_args": model_args} if model_args else {}
    mean, std = (options.get(name, list(default)) for name, default in _IMAGENET.items())
    return normalised(options, mean, std)


def data_label(scale: Scale, column: Column) -> str:
    """The label of a column of ours, with what it was trained on where that is not the paper's."""
    return column.label.replace(*_LABELS.get(column.data, ("", ""))) if scale == "small" else column.label


def runs(scale: Scale, table: PaperTable, configs: Path, seeds: int | None = None) -> list[Line]:
    """The runs of a table, each once: seed by seed over all methods, so that a part of them is a table already.

    Args:
        seeds: Of each method; default what the scale has.
    """
    found: list[Line] = []
    for seed in range(SEEDS[scale] if seeds is None else seeds):
        for row, column, aligned in cells(table):
            method = method_of(table, row, aligned)
            if method.missing or (seeds is None and seed >= wanted(scale, method.key)):
                continue
            config = cell(scale, column, method, configs)
            run = None if config is None else {"scale": scale, "config": config, "seed": seed}
            if run is not None and run not in found:
                found.append(run)
    return found


def wanted(scale: Scale, method: str) -> int:
    """Seeds of a method."""
    return SEEDS[scale] if method in PAIRED else min(FEWER, SEEDS[scale])


def cells(table: PaperTable) -> list[tuple[str, Column, bool]]:
    """Row, column and whether it is aligned, of the cells that a training run fills."""
    if table.name != "table8":
        return [(row, column, True) for row in rows_of(table) for column in table.columns]
    pairs = zip(table.columns, (False, True), strict=True)
    return [
        (row, column, aligned)
        for index, (column, aligned) in enumerate(pairs)
        for row, numbers in table.rows.items()
        if numbers[index] is not None
    ]


def rows_of(table: PaperTable) -> list[str]:
    """The paper's rows, and before AlignMix's the one without alignment."""
    rows = list(table.rows)
    if table.name != "table8":
        rows.insert(next(index for index, row in enumerate(rows) if is_ours(row)), UNALIGNED)
    return rows


def method_of(table: PaperTable, row: str, aligned: bool) -> Method:
    """The method of a cell."""
    return ablated(row, aligned) if table.name == "table8" else METHODS[row]


@functools.cache
def _read(file: Path) -> dict[str, Any]:
    return yaml.safe_load(file.read_text())


def _paper_options(configs: Path, data: str) -> dict[str, Any]:
    file = configs / f"{CONFIGS[data]}.yaml"
    if not file.exists():
        raise ValueError(
            f"configs must be the folder recipes/configs of the project, got {str(configs)!r}, which has no "
            f"{file.name}: call it in the project's folder, or pass --configs."
        )
    return {name: value for name, value in _read(file).items() if name not in ("data", "output")}
