"""What the launcher says: on stderr, since train.py prints its results on stdout."""

import sys
import textwrap
from typing import NoReturn

from ..params import process_index


def say(message: str) -> None:
    """Print a message, in the first process only, on lines of at most 120 columns."""
    if process_index() == 0:
        first, *more = message.splitlines()
        lines = [f"alignmix-timm: {first}", *(f"  {line}" for line in more)]
        texts = [textwrap.fill(line, 120, subsequent_indent="  ", break_on_hyphens=False) for line in lines]
        print("\n".join(texts), file=sys.stderr, flush=True)


def stop(message: str, status: int = 1) -> NoReturn:
    """Print a line and exit: status 2 for what was asked wrongly or is not there, 1 for what went wrong."""
    print(f"alignmix-timm: {message}", file=sys.stderr, flush=True)
    raise SystemExit(status)
