"""The card of a published model: generated from the files of its folder, and merged with what a person wrote.

Text from outside, such as names of datasets and classes, is data: in the metadata one line of plain characters each, in
the body without Markdown or HTML.
"""

import html
import json
import re
import unicodedata
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from .evaluation import evaluation_of, lines_of
from .provenance import UNKNOWN, Provenance
from .repo_id import is_name
from .save import CONFIG, PROVENANCE
from .verify import needs_package

BEGIN = "<!-- alignmix-timm: generated from here on; replaced at the next push. Write above or below. -->"
END = "<!-- alignmix-timm: end of what is generated -->"
OURS = {"generated_by": "alignmix-timm"}  # marks the results that the next push replaces

# Licences that the Hub knows by these names; any other is "other" with a name of its own.
LICENSES = (
    *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0"),
    *("cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0", "gpl-3.0", "agpl-3.0", "lgpl-3.0", "mpl-2.0", "openrail", UNKNOWN),
)
METRICS = {  # name in metrics.jsonl: type on the Hub, name, unit
    "top1": ("accuracy", "Top-1 accuracy", " %"),
    "top5": ("accuracy", "Top-5 accuracy", " %"),
    "loss": ("loss", "Cross-entropy", ""),
    "ece": ("ece", "Expected calibration error, 15 bins", " %"),
}
# Metadata that is generated: values, a licence with its name and the link to it; and lists.
_VALUES = (("license", "license_name", "license_link"), ("library_name",), ("pipeline_tag",), ("base_model",))
_LISTS = ("tags", "datasets", "metrics")
_NOTE = re.compile(r"<!-- alignmix-timm: metadata (\{.*\}) -->")  # what was generated last, within the generated part
_SHOWN_LABELS = 20


def make_card(folder: str | Path, repo_id: str, branch: str | None = None) -> ModelCard:
    """The card of a folder of :func:`alignmix_timm.save_for_timm`, as it would be on this branch of a repository."""
    config = json.loads((Path(folder) / CONFIG).read_text())
    run = json.loads((Path(folder) / PROVENANCE).read_text())["run"]
    provenance = None if run is None else Provenance.from_dict(run)
    data = card_data(config, provenance, repo_id)
    channels, height, width = config["pretrained_cfg"]["input_size"]
    labels = config.get("label_names", [])
    more = f" and {len(labels) - _SHOWN_LABELS} more, in config.json" if len(labels) > _SHOWN_LABELS else ""
    return ModelCard.from_template(
        data,
        template_str=Path(__file__).with_name("card_template.md").read_text(),
        begin=BEGIN,
        note=_note(data),
        end=END,
        name=repo_id.partition("/")[2] or repo_id,
        repo_id=repo_id,
        revision="" if branch in (None, "main") else f"@{branch}",
        architecture=plain(config["architecture"]),
        needs_package=needs_package(config["architecture"]),
        classes=config["num_classes"],
        labels=", ".join(map(escaped, labels[:_SHOWN_LABELS])) + more,
        size=f"{height} x {width}",
        image_mode="L" if channels == 1 else "RGB",
        mixing=provenance and provenance.mixing and escaped(provenance.mixing),
        license=escaped(provenance.license if provenance else UNKNOWN),
        run=provenance and _run(provenance),
        evaluation=_evaluation(Path(folder)),
    )


def card_data(config: dict[str, Any], provenance: Provenance | None, repo_id: str) -> ModelCardData:
    """The metadata, with the results as model-index."""
    license = plain(provenance.license if provenance else UNKNOWN).lower()
    known = license in LICENSES
    mixed = bool(provenance and provenance.mixing)
    data = ModelCardData(
        license=license if known else "other",
        license_name=None if known else license,
        library_name="timm",
        pipeline_tag="image-classification",
        tags=["image-classification", "timm", *(["alignmix", "mixup"] if mixed else [])],
        base_model=provenance.base.name if provenance and provenance.base and _on_hub(provenance.base) else None,
        datasets=[provenance.dataset.name] if provenance and _on_hub(provenance.dataset) else None,
    )
    if provenance is not None and provenance.results:
        data.metrics = list(dict.fromkeys(METRICS[name][0] for name in provenance.results if name in METRICS))
        data.model_name = repo_id.partition("/")[2] or repo_id
        data.eval_results = _results(provenance)
    return data


def merge_card(existing: str | None, generated: ModelCard) -> str:
    """Content of the card to publish: what a person wrote stays, what was generated is replaced.

    Metadata, too: values, tags, datasets, metrics and results are replaced where they are those of the last push, which
    the generated part notes; all others stay.

    Raises:
        ValueError: the metadata of the existing card cannot be read.
    """
    if existing is None:
        return str(generated)
    try:
        card = ModelCard(existing)
        last = _noted(card.text)
    except (ValueError, TypeError, yaml.YAMLError) as error:
        raise ValueError(f"the metadata of the existing README.md cannot be read: {error}. Mend them first.") from error
    old, new = card.data, generated.data
    merged: dict[str, Any] = {**vars(old), **{name: value for name, value in vars(new).items() if value is not None}}
    for names in _VALUES:
        present = [old.get(name) for name in names]
        by_hand = any(present) and present != [last.get(name) for name in names]
        merged |= dict(zip(names, present if by_hand else [new.get(name) for name in names], strict=True))
    for name in _LISTS:
        added = [one for one in _listed(old.get(name)) if one not in _listed(last.get(name))]
        merged[name] = list(dict.fromkeys([*_listed(new.get(name)), *added])) or None
    theirs = [result for result in old.get("eval_results") or [] if result.metric_args != OURS]
    merged["eval_results"] = [*(new.get("eval_results") or []), *theirs] or None
    card.text = _merged_text(card.text, generated.text)
    card.data = ModelCardData(**merged)
    return str(card)


def plain(value: Any) -> str:
    """On one line, without control, format, surrogate and private characters."""
    kept = "".join(" " if unicodedata.category(one)[0] in "CZ" else one for one in str(value))
    return " ".join(kept.split())


def escaped(value: Any) -> str:
    """:func:`plain`, as text that neither Markdown nor HTML reads anything into."""
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", html.escape(plain(value), quote=False))


def _run(provenance: Provenance) -> dict[str, Any]:
    """What the template says about the run, all text escaped."""
    data, base = provenance.dataset, provenance.base
    stated = UNKNOWN if base is None or base.license is None else base.license
    known = [name for name in METRICS if name in provenance.results]
    return {
        "dataset": escaped(data.name),
        "revision": data.revision and escaped(data.revision),
        "data_license": escaped(data.license or "not stated"),
        "train_rows": data.train_rows,
        "eval_rows": f"{data.eval_rows} images" if data.eval_rows else "images",
        "evaluated": escaped(data.evaluated) if data.evaluated else "",
        "held_out": data.held_out,
        "results": [f"{METRICS[name][1]}: {provenance.results[name]:.4g}{METRICS[name][2]}" for name in known],
        "base": "random weights" if base is None else f"{escaped(base.name)}, licence {escaped(stated)}",
        "seed": provenance.seed,
        "epochs": provenance.epochs,
        "updates": provenance.updates,
        "step": provenance.step,
        "ema": (provenance.best_by or "").startswith("ema_"),
        "best_by": provenance.best_by and METRICS[provenance.best_by.removeprefix("ema_")][1].lower(),
        "time": provenance.seconds and _time(provenance.seconds),
        "hardware": escaped(provenance.hardware),
        "versions": ", ".join(f"{escaped(name)} {escaped(number)}" for name, number in provenance.versions.items()),
        "command": provenance.command and escaped(provenance.command),
        "options": [(escaped(name), escaped(value)) for name, value in provenance.options.items()],
    }


def _evaluation(folder: Path) -> dict[str, Any] | None:
    """What the template says about the results of ``alignmix-timm evaluate`` beside the folder, all text escaped."""
    content = evaluation_of(folder)
    if content is None:
        return None
    data, lines = content["data"], lines_of(content)
    definitions = {line.label.rpartition(": ")[2]: line.definition for line in lines}
    return {
        "data": escaped(data["name"]),
        "split": escaped(data["split"]),
        "rows": data["rows"],
        "lines": [(escaped(line.label), line.value) for line in lines],
        "definitions": [(escaped(label), escaped(definition)) for label, definition in definitions.items()],
    }


def _results(provenance: Provenance) -> list[EvalResult]:
    data = provenance.dataset
    return [
        EvalResult(
            task_type="image-classification",
            task_name="Image classification",
            dataset_type=plain(data.name) if _on_hub(data) else "local",
            dataset_name=plain(data.name) or "unnamed",
            dataset_config=data.config and plain(data.config),
            dataset_split=data.eval_split and ("held-out rows of " if data.held_out else "") + plain(data.eval_split),
            dataset_revision=data.revision and plain(data.revision),
            metric_type=METRICS[name][0],
            metric_name=METRICS[name][1] + METRICS[name][2].replace(" %", ", %"),
            metric_value=value,
            metric_args=dict(OURS),
        )
        for name, value in provenance.results.items()
        if name in METRICS
    ]


def _on_hub(thing: Any) -> bool:
    """Whether it can be linked: it is said to be on the Hub, and its name is a legal one."""
    return thing.on_hub and is_name(thing.name)


def _listed(value: Any) -> list[Any]:
    return [] if value is None else value if isinstance(value, list) else [value]


def _note(data: ModelCardData) -> str:
    """The metadata as a comment; no text in them can end it."""
    names = [name for group in (*_VALUES, _LISTS) for name in group]
    text = json.dumps({name: data.get(name) for name in names if data.get(name) is not None})
    text = re.sub("[<>`]", lambda found: f"\\u{ord(found[0]):04x}", text)
    return f"<!-- alignmix-timm: metadata {text} -->"


def _noted(text: str) -> dict[str, Any]:
    """The metadata that the last push generated; none for a card that was not generated, or by an older version."""
    found = _NOTE.search(_split(text)[1])
    return json.loads(found[1]) if found else {}


def _split(text: str) -> tuple[str, str, str]:
    """What is above the generated part, that part, and what is below; all is above if there is none, or half of one."""
    found = re.search(f"{re.escape(BEGIN)}.*?{re.escape(END)}", text, re.DOTALL)
    return (text[: found.start()], found[0], text[found.end() :]) if found else (text, "", "")


def _merged_text(old: str, new: str) -> str:
    """The generated part in place of the former one; below all else if there is none, or only half of one."""
    _, generated, _ = _split(new)
    before, former, after = _split(old)
    if former:
        return before + generated + after
    theirs = old.replace(BEGIN, "").replace(END, "").strip("\r\n")
    return f"{theirs}\n\n{generated}\n" if theirs else f"{generated}\n"


def _time(seconds: float) -> str:
    minutes = seconds / 60
    return f"{minutes / 60:.1f} hours of training" if minutes >= 90 else f"{minutes:.1f} minutes of training"
