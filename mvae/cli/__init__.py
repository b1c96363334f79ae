"""The ``mvae`` command. Commands that only read a checkpoint never import torch."""

from __future__ import annotations

import sys

import typer

from mvae.cli import checkpoint, files
from mvae.cli.recommender import recommend, train
from mvae.errors import CheckpointError, DataError

app = typer.Typer(
    help="Train a Mult-VAE recommender, and see what is inside any PyTorch or Lightning checkpoint.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(train)
app.command()(recommend)
for name, command in [*checkpoint.COMMANDS, *files.COMMANDS]:
    app.command(name)(command)


def main() -> None:
    """Run the command line. Exit codes: 0 fine, 1 a finding, 2 bad input or bad usage; no traceback for those."""
    try:
        app()
    except (CheckpointError, DataError, OSError) as error:
        print(f"mvae: {error}", file=sys.stderr)
        sys.exit(2)
