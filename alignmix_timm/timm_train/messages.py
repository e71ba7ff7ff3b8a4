"""What the launcher says: on stderr, since train.py prints its results on stdout."""

import sys
from typing import NoReturn

from ..params import process_index


def say(message: str) -> None:
    """Print a line, in the first process only."""
    if process_index() == 0:
        print(f"alignmix-timm: {message}", file=sys.stderr, flush=True)


def stop(message: str, status: int = 1) -> NoReturn:
    """Print a line and exit: status 2 for what was asked wrongly or is not there, 1 for what went wrong."""
    print(f"alignmix-timm: {message}", file=sys.stderr, flush=True)
    raise SystemExit(status)
