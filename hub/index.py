"""The table of released models in README.md, from one JSON file for each.

python hub/index.py                                # write the table
python hub/index.py --check                        # exit with 1 if the table is another one
python hub/index.py --add quickstart/model NAME    # describe a saved model in NAME.json, and write the table
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from alignmix_timm.publishing.card import escaped
from alignmix_timm.publishing.evaluation import evaluation_of, sha256_of
from alignmix_timm.publishing.provenance import UNKNOWN, Provenance, without_paths
from alignmix_timm.publishing.save import CONFIG, PROVENANCE, WEIGHTS

HUB = Path(__file__).parent
README = HUB.parent / "README.md"
BEGIN, END = "<!-- models: written by hub/index.py -->", "<!-- models: end -->"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--add", nargs=2, metavar=("FOLDER", "NAME"))
    args = parser.parse_args()
    if args.add:
        folder, name = args.add
        (HUB / f"{name}.json").write_text(json.dumps(describe(Path(folder)), indent=2) + "\n")
    text = README.read_text()
    updated = with_table(text, table())
    if args.check:
        sys.exit(0 if updated == text else "README.md has another table than hub/*.json: run python hub/index.py")
    README.write_text(updated)


def describe(folder: Path) -> dict[str, Any]:
    """An entry: what is in the folder of a model, with the hash of its weights. ``repository`` is filled in by hand."""
    config = json.loads((folder / CONFIG).read_text())
    return {
        "architecture": config["architecture"],
        "num_classes": config["num_classes"],
        "repository": None,
        "bytes": (folder / WEIGHTS).stat().st_size,
        "sha256": sha256_of(folder / WEIGHTS),
        "run": json.loads((folder / PROVENANCE).read_text())["run"],
        "evaluation": without_paths(evaluation_of(folder)),
    }


def table() -> str:
    """A row for each entry; a model that nobody can download is named as such."""
    lines = ["| model | data | training images | evaluation images | top-1 % | ECE % | evaluated | weights |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for path in sorted(HUB.glob("*.json")):
        entry = json.loads(path.read_text())
        run = Provenance.from_dict(entry["run"])
        where = entry["repository"]
        link = f"[{where}](https://huggingface.co/{where})" if where else "not uploaded"
        built = f"; built by `{run.command}`" if run.command else ""
        data = run.dataset
        rows = " | ".join(UNKNOWN if count is None else f"{count:,}" for count in (data.train_rows, data.eval_rows))
        top1, ece = (f"{run.results[name]:.1f}" for name in ("top1", "ece"))
        parts = ", ".join((entry.get("evaluation") or {"parts": []})["parts"]) or "-"
        name = f"[{path.stem}](hub/{path.name})"
        lines.append(f"| {name} | {escaped(data.name)} | {rows} | {top1} | {ece} | {parts} | {link}{built} |")
    return "\n".join(lines)


def with_table(text: str, rows: str) -> str:
    """The text with these rows between the two marks."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{rows}\n{END}{after}"


if __name__ == "__main__":
    main()
