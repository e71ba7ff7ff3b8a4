"""The code blocks of the documents, and the commands in those of the shell."""

import itertools
import re
import shlex
from typing import NamedTuple

from launcher import ROOT

DOCUMENTS = ("README.md", "recipes/README.md", "hub/README.md")


class Block(NamedTuple):
    """A fenced block; ``heading`` is the section that it stands in."""

    document: str
    heading: str
    language: str
    text: str


def blocks(language: str | None = None) -> list[Block]:
    """The blocks of the documents, in order; of one language, or all."""
    found = []
    for document in DOCUMENTS:
        heading = ""
        fence = re.compile(r"^## ([^\n]*)$|^ *```(\S*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
        for section, kind, text in fence.findall((ROOT / document).read_text()):
            heading = section or heading
            if not section:
                found.append(Block(document, heading, kind, text))
    return [block for block in found if language in (None, block.language)]


def sides(diff: str) -> tuple[str, str]:
    """The program before and after a diff."""
    lines = [line or " " for line in diff.splitlines()]
    return tuple("\n".join(line[1:] for line in lines if line[0] in side) for side in (" -", " +"))  # type: ignore[return-value]


def commands(text: str) -> list[list[str]]:
    """The commands of a shell block, each a list of words: those of a loop for its first turn, a chain one by one."""
    found: list[list[str]] = []
    for name, value in re.findall(r"^for (\w+) in (\S+).*; do$", text, re.MULTILINE):
        text = text.replace(f"${name}", value)
    for line in text.splitlines():
        words = shlex.split(line, comments=True)
        if words and words[0] not in ("for", "done"):
            starts = [0, *(place + 1 for place, word in enumerate(words) if word == "&&"), len(words) + 1]
            found += [words[start : end - 1] for start, end in itertools.pairwise(starts)]
    return found
