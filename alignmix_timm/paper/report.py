"""``python -m alignmix_timm.paper report``: recipes/REPRODUCTION.md, from the lines of the runs alone."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import yaml

from .claims import ABSENT, KINDS, OPEN, OPPOSITE, SHOWS, Claim, claims
from .cost import cost_text
from .hours import hours_text
from .numbers import paper_tables
from .results import Line, identity
from .scales import runs
from .show import counted, markdown, table_text
from .small import ATTACKED

TRAINED = ("table1a", "table2", "table3", "table6", "table7", "table8")
_HERE = Path(__file__).parent


def report(configs: Path, lines: Sequence[Line]) -> str:
    """The whole report as Markdown.

    Args:
        configs: See :func:`.scales.cell`.
        lines: Of all scales.
    """
    small = [line for line in lines if line["scale"] == "small"]
    found = claims("small", configs, small)
    tested = [claim for claim in found if claim.verdict != ABSENT]
    settings = yaml.safe_load((_HERE / "small.yaml").read_text())
    common, cifar, fashion = settings["common"], settings["cifar100"], settings["fashion_mnist"]
    wanted = {identity(run) for name in TRAINED for run in runs("small", paper_tables()[name], configs)}
    return (
        (_HERE / "report_template.md")
        .read_text()
        .format(
            width=common["model_args"]["width"],
            classes=cifar["classes"],
            images=cifar["images_per_class"],
            fashion_images=fashion["images_per_class"],
            epochs=common["epochs"],
            batch_size=common["batch_size"],
            lr=common["lr"],
            weight_decay=common["weight_decay"],
            test_images=_test_images(small),
            attacked=ATTACKED,
            done=len(wanted & {identity(line) for line in small}),
            wanted=len(wanted),
            hours=f"{sum(line['seconds'] for line in small) / 3600:.1f}",
            hardware="; ".join(sorted({line["hardware"] for line in small})) or "no machine yet",
            verdicts="\n".join(f"- {_verdict(kind, found)}" for kind in KINDS),
            by_table="\n".join(_by_table(found)).strip(),
            chance=f"{0.025 * len(tested):.0f}",
            tested=len(tested),
            tables="\n".join(text for name in TRAINED for text in _table(name, configs, small)).strip(),
            cost="\n".join(cost_text(configs, lines)).strip(),
            claims="\n".join(_claims(found)).strip(),
            full_scale=_full_scale(lines),
            estimates="\n".join(hours_text(configs, lines)).strip(),
        )
    )


def _table(name: str, configs: Path, small: Sequence[Line]) -> list[str]:
    title, *rest = table_text(paper_tables()[name], "small", configs, small)
    return [title, "", f"`python -m alignmix_timm.paper {name} --print-only`", *rest, ""]


def _test_images(small: Sequence[Line]) -> str:
    counted = {line["config"]["data"]: line["result"]["images"]["test"] for line in small}
    names = {"cifar100": "CIFAR-100", "fashion_mnist": "Fashion-MNIST"}
    return ", ".join(f"{count:,} of {names[data]}" for data, count in sorted(counted.items())) or "none yet"


def _full_scale(lines: Sequence[Line]) -> str:
    count = sum(line["scale"] == "paper" for line in lines)
    return "none was trained yet" if not count else f"{count} run{'s are' if count > 1 else ' is'} done"


def _verdict(kind: str, found: Sequence[Claim]) -> str:
    """What the intervals of all claims of a kind say, in a sentence."""
    verdicts = Counter(claim.verdict for claim in found if claim.kind == kind)
    shows, opposite, unclear = (verdicts[word] for word in (SHOWS, OPPOSITE, OPEN))
    tested = shows + opposite + unclear
    if not tested:
        return f"{KINDS[kind]}: not tested yet."
    if 2 * shows > tested:
        word = "mostly shows"
    elif 2 * opposite > tested:
        word = "is mostly contradicted"
    elif 2 * unclear > tested:
        word = "can mostly be neither seen nor ruled out"
    else:
        words = ("shows in some measures", shows), ("is contradicted in some", opposite)
        word = " and ".join(text for text, count in words if count)
    lies, holds = ("lies" if shows == 1 else "lie"), ("holds" if unclear == 1 else "hold")
    return (
        f"{KINDS[kind]}: the paper's claim {word}. Of {tested} intervals {shows} {lies} on the paper's side of zero, "
        f"{opposite} on the other side, and {unclear} {holds} zero."
    )


def _by_table(found: Sequence[Claim]) -> list[str]:
    """How many intervals of each table lie on the paper's side, on the other, and on both."""
    rows = []
    for name in TRAINED:
        cells = []
        for kind in KINDS:
            verdicts = Counter(claim.verdict for claim in found if (claim.table, claim.kind) == (name, kind))
            cells.append(" / ".join(str(verdicts[word]) for word in (SHOWS, OPPOSITE, OPEN)))
        rows.append([f"Table {name.removeprefix('table')}", *cells])
    return markdown(["", *KINDS.values()], rows)


def _claims(found: Sequence[Claim]) -> list[str]:
    rows = [
        [claim.text, "" if claim.printed is None else f"{claim.printed:+g}", counted(claim.ours), claim.verdict]
        for claim in found
    ]
    return markdown(["claim", "paper", "ours (seeds of both)", "verdict"], rows)
