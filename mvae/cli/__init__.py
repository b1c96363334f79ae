"""The `mvae` command: which word stands for which function, and how a command ends.

It starts quickly: the module of a command is imported when the command is asked for, and what is heavy when it runs.
Commands that only read a checkpoint never import torch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module
from io import TextIOWrapper

from mvae import __version__
from mvae.cli.options import Parser, summary
from mvae.errors import CheckpointError, DataError, NothingToSaveError

#: The module of each command; `inspect` is the function `inspect_command` there, and its docstring is the help.
COMMANDS = {
    **dict.fromkeys(("train", "recommend"), "recommender"),
    **dict.fromkeys(("inspect", "verify", "diff", "salvage", "export", "plain"), "checkpoints"),
}


def main() -> None:
    """Run the command line. Exit codes: 0 fine, 1 a finding, 2 bad input or bad usage; no traceback for those."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # some encodings, such as that of a pipe on Windows, have no β
    try:
        code = _run(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except KeyboardInterrupt:
        print("mvae: stopped.", file=sys.stderr)
        code = 130
    except (CheckpointError, DataError, OSError) as error:
        print(f"mvae: {error}", file=sys.stderr)
        code = 1 if isinstance(error, NothingToSaveError) else 2
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    if arguments and arguments[0] in COMMANDS:
        command = _command(arguments[0])
        return command(Parser(f"mvae {arguments[0]}", command.__doc__ or "", arguments[1:]))
    overview = _overview(arguments[:1])
    if arguments and not arguments[0].startswith("-"):
        overview.error(f"there is no command {arguments[0]!r}, only {', '.join(COMMANDS)}.")
    overview.options()  # ends with the help or the version, unless there is nothing to read
    overview.print_help()
    return 2


def _command(name: str) -> Callable[[Parser], int]:
    found: Callable[[Parser], int] = getattr(import_module(f"mvae.cli.{COMMANDS[name]}"), f"{name}_command")
    return found


def _overview(arguments: list[str]) -> Parser:
    purpose = "Train a Mult-VAE recommender, and see what is inside any PyTorch or Lightning checkpoint."
    parser = Parser("mvae", f"{purpose}\n\n`mvae COMMAND --help` says what a command can do.", arguments)
    parser.usage = "mvae [-h] [--version] COMMAND …"
    parser.add_argument("--version", action="version", version=f"mvae {__version__}")
    group = parser.add_argument_group("commands")
    for name in COMMANDS:
        group.add_argument(name, nargs="?", help=summary(_command(name).__doc__ or ""))
    return parser
