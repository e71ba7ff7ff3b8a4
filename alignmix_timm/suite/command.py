"""The command ``alignmix-timm evaluate MODEL --data DATA``."""

import argparse
import contextlib
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from torch import Tensor

from ..publishing.evaluation import EVALUATION, evaluation_folder
from ..training.data.loaders import share_of_cores
from ..training.errors import told_in_a_sentence
from ..training.launch import start_processes
from ..training.parsing import OneLineParser
from ..typed import at_least
from .context import Context, full_precision
from .data import Data, load_data
from .labels import class_indices
from .part import Part
from .parts import PARTS
from .report import Report
from .subject import Subject, load_subject

_DESCRIPTION = """Measure any timm model on any data, whether it was trained with this package or not.

    alignmix-timm evaluate runs/first --data path/to/folder
    alignmix-timm evaluate resnet50 --data path/to/folder --suite accuracy calibration
    alignmix-timm evaluate resnet18 --weights FILE --data USER/NAME --split test --rows 1000
    accelerate launch -m alignmix_timm evaluate hf-hub:USER/NAME --data path/to/folder     # all GPUs of this machine

OUT holds evaluation.json, with the definition of each number, and the pictures. It is written as each part ends, and a
part that stands in it with the same model, data and settings is not measured again. In fp32, by the model's own
preprocessing; the numbers do not depend on the batch size or the number of processes.

The parts of --suite:
"""


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """The command.

    Returns:
        The content of ``evaluation.json``, in the main process.

    Raises:
        SystemExit: with a sentence, where it cannot be done.
    """
    options = _parser().parse_args(arguments)
    with told_in_a_sentence(), full_precision():
        return evaluate(options)


def evaluate(options: argparse.Namespace) -> dict[str, Any]:
    """Measure what the options say; return the content of ``evaluation.json``.

    Raises:
        ValueError: a model, data, options or a folder that cannot be used; says what to pass.
    """
    chosen = [part for part in PARTS if options.suite is None or part.name in options.suite]
    settings = {part.name: {"seed": options.seed, **part.settings(options)} for part in chosen}
    accelerator = start_processes("no")
    subject = load_subject(options.model, options.weights)
    data = _load_data(options, subject)
    for part in chosen:
        if columns := part.columns(options):
            settings[part.name]["columns"] = data.digest(columns)
    labels, unlabelled = _labels(options, data, subject)
    folder = options.out or _default_folder(subject, options.model)
    report = Report(folder, subject.described, data.described, options.overwrite)
    subject.model.to(accelerator.device)
    workers = share_of_cores(accelerator.num_processes) if options.workers is None else options.workers
    context = Context(
        subject, data, data.images(subject), labels, unlabelled, options, accelerator, options.batch_size, workers
    )
    context.say(_what(context))
    with _made(folder, context):
        for part in _todo(chosen, settings, report, context):
            context.say(f"{part.name}: {part.help}")
            _run(part, settings[part.name], context, report)
    if accelerator.is_main_process:  # which alone has the results
        context.say(f"\n{report.table()}\n\n{folder / EVALUATION}")
    return report.content


def _load_data(options: argparse.Namespace, subject: Subject) -> Data:
    return load_data(
        options.data,
        options.split,
        data_config=options.data_config,
        revision=options.revision,
        image_column=options.image_column,
        label_column=options.label_column,
        count=options.rows,
        seed=options.seed,
        run=subject.run,
    )


def _labels(options: argparse.Namespace, data: Data, subject: Subject) -> tuple[Tensor | None, str]:
    """The labels as classes of the model, or why there are none; how they were matched is added to the data."""
    data.described["labels"] = None
    if data.label is None:
        return None, f"none of the columns {list(data.rows.features)} is known to hold any: pass --label-column."
    classes = subject.model.num_classes
    try:
        labels, how = class_indices(data.rows, data.label, subject.label_names, classes, options.by_number)
    except ValueError as error:
        return None, str(error)
    data.described["labels"] = f"{data.label}, {how}"
    return labels, ""


def _todo(chosen: list[Part], settings: dict[str, dict[str, Any]], report: Report, context: Context) -> list[Part]:
    """The parts that are to be run, the same in all processes.

    Raises:
        ValueError: one that was asked for cannot be run here, or none can.
    """
    (done,) = broadcast_object_list([{part.name for part in chosen if report.done(part, settings[part.name])}])
    todo, obstacles = [], []
    for part in chosen:
        if part.name in done:
            context.say(f"{part.name} stands in {report.folder / EVALUATION}, and is not measured again.")
        elif (obstacle := part.obstacle(context)) is None:
            todo.append(part)
        else:
            obstacles.append(obstacle)
    if obstacles and (context.options.suite is not None or not (todo or done)):
        raise ValueError(" ".join(obstacles))
    for obstacle in obstacles:
        context.say(f"Left out: {obstacle}")
    return todo


@contextlib.contextmanager
def _made(folder: Path, context: Context) -> Iterator[None]:
    """The folder of the results; none is left if nothing was written into it."""
    if not context.accelerator.is_main_process:
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"out must be a folder that can be written, got {str(folder)!r}: {error}.") from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            folder.rmdir()  # fails if there is anything in it


def _run(part: Part, settings: dict[str, Any], context: Context, report: Report) -> None:
    measured = part.measure(context)
    if context.accelerator.is_main_process:
        values = part.summary(measured, settings)
        try:
            pictures = part.draw(measured, values, context, report.folder)
        except ImportError as error:
            context.say(f"No pictures of {part.name}: {error}")
            pictures = []
        report.write(part, settings, values, part.details(measured, context), pictures)
    context.accelerator.wait_for_everyone()


def _what(context: Context) -> str:
    model, data = context.subject.described, context.data.described
    channels, height, width = model["preprocessing"]["input_size"]
    words = (
        f"{model['name']}: {model['weights']}, {model['classes']} classes, images of {channels} x {height} x {width}"
    )
    labels = f"labels: {data['labels']}" if data["labels"] else "no labels"
    return f"{words}\n{data['name']}: {data['rows']} images, {data['split']}, {labels}"


def _default_folder(subject: Subject, name: str) -> Path:
    if subject.folder is not None:
        return evaluation_folder(subject.folder.resolve())
    return Path(re.sub(r"[^\w.-]+", "_", name.removeprefix("hf-hub:")) + "-evaluation")


def _parser() -> OneLineParser:
    width = max(len(part.name) for part in PARTS)
    parts = "\n".join(f"    {part.name:<{width}}  {part.help}" for part in PARTS)
    parser = OneLineParser(
        _DESCRIPTION + parts, prog="alignmix-timm evaluate", usage="%(prog)s MODEL --data DATA [OPTION ...]"
    )
    parser.add_argument(
        "model", metavar="MODEL", help="folder of a run or saved for timm, hf-hub:USER/NAME, or a name of timm"
    )
    parser.add_argument("--weights", type=Path, metavar="FILE", help="default: those that the model comes with")
    names = [part.name for part in PARTS]
    parser.add_argument("--suite", nargs="+", choices=names, metavar="PART", help="default: all that can be measured")
    data = parser.add_argument_group("data")
    data.add_argument("--data", required=True, help="dataset on the Hub, or folder, as for alignmix-timm train")
    data.add_argument("--split", "--val-split", help="default: the evaluation split, or rows held out in the training")
    data.add_argument("--data-config", help="configuration of the dataset, where it has several")
    data.add_argument("--revision", help="branch, tag or commit of the dataset on the Hub")
    data.add_argument("--image-column", help="default: image, img, or the only column of images")
    data.add_argument("--label-column", help="default: label, labels, fine_label, or the only column of class labels")
    data.add_argument(
        "--by-number", action="store_true", help="match labels to the model's classes by number, not by name"
    )
    data.add_argument("--rows", type=at_least(1), metavar="N", help="this many rows, drawn at random by the seed")
    run = parser.add_argument_group("run")
    run.add_argument("--out", type=Path, help="folder of the results; default: MODEL-evaluation, beside a model folder")
    run.add_argument("--overwrite", action="store_true", help="begin anew, whatever results are in OUT")
    run.add_argument("--seed", type=at_least(0), default=0, help="of all that is drawn; default 0")
    run.add_argument("--batch-size", type=at_least(1), default=64, help="images at once in each process; default 64")
    run.add_argument(
        "--workers", type=at_least(0), help="data workers of each process; default its share of the CPU cores"
    )
    for part in PARTS:
        part.add_options(parser.add_argument_group(part.name))
    return parser


if __name__ == "__main__":
    main()
