"""Localization with the last weights of a run (Table 4), by ``alignmix-timm evaluate``."""

from pathlib import Path

from accelerate.state import AcceleratorState

from ..evaluation.localization import METRICS
from ..publishing.save import save_for_timm
from ..suite.command import main as evaluate
from ..training.export import model_args
from ..training.run import Run


def localize(trained: Run, data: str, boxes: Path, folder: Path) -> dict[str, float]:
    """Top-1 Loc, GT-known Loc and MaxBoxAccV2 of the test images, in percent.

    The weights are saved for timm in ``folder/last_model``, and measured once: see ``folder/localization``.

    Args:
        trained: With the last weights: the paper takes no other, for the best would be chosen on test images.
        data: Name or folder of the dataset.
        boxes: Folder of its boxes in the files of wsolevaluation, see :mod:`alignmix_timm.evaluation.box_files`.
        folder: Of the run.

    Raises:
        ValueError, SystemExit: boxes that do not fit the data.
    """
    model = folder / "last_model"
    save_for_timm(trained.net, model, trained.splits.names, trained.data, model_args(trained.config))
    AcceleratorState._reset_state()  # localization is measured in fp32, whatever the training's precision
    place = ["--data", data, "--localization-box-files", str(boxes), "--out", str(folder / "localization")]
    found = evaluate([str(model), "--suite", "localization", *place])["parts"]["localization"]["values"]
    return {metric.key: found[metric.key] for metric in METRICS}
