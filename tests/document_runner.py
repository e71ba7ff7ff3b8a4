"""Run in a process of its own: the Python of the documents, each program in a namespace of its own.

python document_runner.py PROGRAMS.json    # a list of [label, code, "loop" or ""]
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset


class Pictures(Dataset):
    """As timm's datasets: ``create_loader`` sets the transform."""

    transform: Any = None

    def __len__(self) -> int:
        return 16

    def __getitem__(self, row: int) -> tuple[Any, int]:
        pixels = np.random.default_rng(row).integers(256, size=(70, 80, 3), dtype=np.uint8)
        return self.transform(Image.fromarray(pixels)), row % 10


def surroundings() -> dict[str, Any]:
    """What a training loop of timm's parts has before the lines that the documents show."""
    rows = [(torch.randn(3, 64, 64), row % 10) for row in range(16)]
    return {
        "model": timm.create_model("test_resnet", num_classes=10).train(),
        "criterion": torch.nn.CrossEntropyLoss(),
        "loader": DataLoader(rows, batch_size=8),
        "dataset": Pictures(),
        "device": torch.device("cpu"),
    }


def main(path: str) -> None:
    for label, code, kind in json.loads(Path(path).read_text()):
        torch.manual_seed(0)
        namespace = surroundings() if kind == "loop" else {}
        exec(compile(code, label, "exec"), namespace)
        if kind == "loop":
            namespace["loss"].backward()
            assert namespace["loss"].isfinite(), label
            mixer = namespace.get("mixup_fn")
            assert "alignmix_timm" not in code or mixer.hooks.model is namespace["model"], label
        print(f"ran {label}")


if __name__ == "__main__":
    main(sys.argv[1])
