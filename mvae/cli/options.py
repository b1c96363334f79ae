"""How the commands read their options: `argparse` with the habits of this command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """The options of one command. Options and files may come in any order, and no option is abbreviated.

    Args:
        prog: the command as it is typed, such as `mvae inspect`.
        doc: the docstring of its function: the first paragraph opens the help, the rest ends it.
        arguments: what stands behind the command.
    """

    def __init__(self, prog: str, doc: str, arguments: list[str]) -> None:
        first, rest = summary(doc), doc.partition("\n\n")[2]
        super().__init__(prog, description=first, epilog=rest, allow_abbrev=False)
        self.arguments = arguments

    def options(self, namespace: argparse.Namespace | None = None) -> argparse.Namespace:
        """The options as they were given. Ends the program at a wrong one, and after the help."""
        given = self.arguments
        if "--" in given:  # names of files follow, even -x; argparse, which reads them twice, would forget that
            at = given.index("--")
            given = given[:at] + [f"./{name}" if name.startswith("-") else name for name in given[at + 1 :]]
        return self.parse_intermixed_args(given, namespace)

    def given(self) -> dict[str, object]:
        """The options that were typed, without the defaults."""
        untouched = dict.fromkeys(vars(self.options()), self)
        read = vars(self.options(argparse.Namespace(**untouched)))
        return {name: value for name, value in read.items() if value is not self}

    def format_help(self) -> str:
        """The help, which begins with a capital."""
        return super().format_help().replace("usage:", "Usage:", 1)

    def error(self, message: str) -> NoReturn:
        """End with exit code 2 and one message."""
        self.exit(2, f"{self.prog}: {message}\nTry '{self.prog} --help'.\n")


def summary(doc: str) -> str:
    """The first paragraph of a docstring, in one line."""
    return " ".join(doc.partition("\n\n")[0].split())


def whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """The `type` of an option that is a whole number within limits."""
    limits = f"of at least {least}" if most is None else f"from {least} to {most}"

    def read(text: str) -> int:
        number = int(text) if text.removeprefix("-").isdecimal() else None
        if number is None or number < least or (most is not None and number > most):
            raise argparse.ArgumentTypeError(f"expected a whole number {limits}, not {text!r}")
        return number

    return read
