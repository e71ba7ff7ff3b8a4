"""The part ``localization``: boxes from class activation maps against boxes around the objects."""

import argparse
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Subset

from ..evaluation.activation_maps import activation_maps
from ..evaluation.box_files import FILES, read_box_files
from ..evaluation.boxes import largest_box, score_map
from ..evaluation.localization import METRICS, THRESHOLD, localization, overlap
from ..evaluation.localization_figure import Located, draw_localization
from ..evaluation.plotting import save_figure
from ..points.box_column import BoxColumn
from .class_names import class_names
from .context import Context
from .data import Images
from .part import Part, Values, needs_classes
from .subject import pixel_transform
from .true_boxes import check_columns, true_boxes

_PICTURE, _SHOWN = "localization.png", 8


class Localization(Part):
    name = "localization"
    help = "boxes from class activation maps: Top-1 Loc, GT-known Loc, MaxBoxAccV2"
    metrics = METRICS

    def add_options(self, group: Any) -> None:
        group.add_argument(
            "--localization-boxes",
            metavar="COLUMN",
            help="column of boxes in pixels, or a field of one: objects.bbox; each row has one box or a list of them",
        )
        group.add_argument(
            "--localization-box-format", choices=("xyxy", "xywh"), default="xyxy", help="default xyxy: two corners"
        )
        group.add_argument(
            "--localization-box-files",
            type=Path,
            metavar="FOLDER",
            help="boxes of the images of --data by their paths: metadata/CUB/test of wsolevaluation, for CUB-200-2011",
        )

    def settings(self, options: argparse.Namespace) -> dict[str, Any]:
        column, files = options.localization_boxes, options.localization_box_files
        if column is not None and files is not None:
            raise ValueError("pass either --localization-boxes or --localization-box-files, got both.")
        return {
            "boxes": column,
            "box_format": options.localization_box_format if column else None,
            "box_files": None if files is None else _sha256(files),
        }

    def columns(self, options: argparse.Namespace) -> list[str]:
        return [] if options.localization_boxes is None else [BoxColumn(options.localization_boxes).column]

    def obstacle(self, context: Context) -> str | None:
        if context.options.localization_boxes is None and context.options.localization_box_files is None:
            return f"{self.name} needs boxes: pass --localization-boxes COLUMN or --localization-box-files FOLDER."
        if (few := needs_classes(self.name, context)) is not None:
            return few
        try:
            check_columns(context)
            _maps(context, _whole_images(context)[0][None].to(context.device))
        except ValueError as error:
            return str(error)
        return None

    def measure(self, context: Context) -> dict[str, Tensor]:
        truth, images = true_boxes(context), _whole_images(context)
        known = None if context.labels is None else context.labels[truth.rows]
        if known is None:
            context.say("The data have no labels: each map is that of the predicted class.")

        def of_batch(pixels: Tensor, places: Tensor) -> dict[str, Tensor]:
            logits, maps = (values.cpu() for values in _maps(context, pixels))
            predicted = logits.nan_to_num(-torch.inf).argmax(1)
            classes = predicted if known is None else known[places]
            found = [
                overlap(score_map(own[index], *pixels.shape[2:]), truth.boxes[place])
                for own, index, place in zip(maps, classes.tolist(), places.tolist(), strict=True)
            ]
            return {
                "largest": torch.tensor([each.largest for each in found], dtype=torch.float64),
                "by_level": torch.from_numpy(np.stack([each.by_level for each in found])),
                "predicted": predicted,
                "class": classes,
                "broken": logits.isnan().any(1),
                "correct": (predicted == classes) & ~logits.isnan().any(1),
            }

        measured = context.over(Subset(images, truth.rows), of_batch, self.name)
        if broken := int(measured["broken"].sum()):
            context.say(f"The logits of {broken} of {len(truth.rows)} images are NaN: their maps are empty.")
        if known is None:
            del measured["correct"]
        return {**measured, "row": torch.tensor(truth.rows), "truth": truth.padded()}

    def summary(self, measured: dict[str, Tensor], settings: dict[str, Any]) -> Values:
        correct = measured["correct"].numpy() if "correct" in measured else None
        return {**localization(correct, measured["largest"].numpy(), measured["by_level"].numpy())}

    def draw(self, measured: dict[str, Tensor], values: Values, context: Context, folder: Path) -> list[str]:
        images, names = _whole_images(context), class_names(context)
        places = _from_best_to_worst(measured["largest"])
        shown = []
        for place in places:
            row, index, predicted = (int(measured[name][place]) for name in ("row", "class", "predicted"))
            pixels = images[row]
            _, maps = _maps(context, pixels[None].to(context.device))
            scores = score_map(maps[0, index], *pixels.shape[1:])
            truth = measured["truth"][place].numpy()
            width, height = images.picture(row).size
            shown.append(
                Located(
                    pixels,
                    scores,
                    largest_box(scores, THRESHOLD),
                    truth[truth[:, 2] >= 0],
                    float(measured["largest"][place]),
                    names[index],
                    "" if predicted == index else f"predicted: {names[predicted]}",
                    height / width,
                )
            )
        title = f"From the best to the worst of {len(measured['row'])} images, in equal steps"
        save_figure(draw_localization(shown, title), folder / _PICTURE)
        return [_PICTURE]


def _sha256(folder: Path) -> str:
    """Of the files with boxes."""
    read_box_files(folder)  # or say what is wrong with them
    return hashlib.sha256(b"".join((folder / name).read_bytes() for name in FILES)).hexdigest()


def _whole_images(context: Context) -> Images:
    """The images resized to the model's input without a crop, which would cut objects and boxes."""
    whole = pixel_transform({**context.subject.preprocessing, "crop_pct": 1.0, "crop_mode": "squash"})
    return Images(context.data.rows, context.data.image, context.subject.mode, whole)


def _maps(context: Context, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and class activation maps of pixels in [0, 1], on the device."""
    model = context.subject.model
    return activation_maps(model.net, model.normalized(pixels))


def _from_best_to_worst(overlaps: Tensor) -> list[int]:
    """Places spread evenly over the values from the largest to the least, both among them."""
    order = overlaps.argsort(descending=True, stable=True)
    return order[torch.linspace(0, len(order) - 1, min(_SHOWN, len(order))).round().long()].tolist()
