"""A command line whose mistakes are told in one line."""

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from ..nearest import nearest
from .errors import end


class OneLineParser(argparse.ArgumentParser):
    """An ``argparse.ArgumentParser`` that names the nearest option to an unknown one, and prints no usage.

    Its ``--help`` shows ``description`` as it is written.
    """

    def __init__(self, description: str | None, **options: Any) -> None:
        super().__init__(
            description=description,
            formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=32),
            allow_abbrev=False,
            **options,
        )

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """The options.

        Raises:
            SystemExit: 2, and the sentence is printed.
        """
        try:
            found, unknown = self.parse_known_args(args, namespace)
        except ValueError as error:  # of an action
            self.error(str(error))
        if unknown:
            flags = [flag for action in self._actions for flag in action.option_strings]
            self.error(f"unknown option {unknown[0]!r}.{nearest(unknown[0].partition('=')[0], flags)}")
        return found

    def error(self, message: str) -> NoReturn:
        """Exit with the message alone."""
        message = message.removeprefix("argument ")
        end(f"{self.prog}: error: {message}{'' if message.endswith(('.', '?')) else '.'}", 2)
