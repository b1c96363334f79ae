"""``mvae inspect``: what is in a checkpoint, from the shell. Torch is never imported."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from mvae.checkpoint.inspection import CheckpointFile, inspect
from mvae.errors import CheckpointError


def inspect_command(
    files: Annotated[list[str], typer.Argument(metavar="FILE…", help="Checkpoints, or - for standard input.")],
    json: Annotated[bool, typer.Option("--json", help="For programs: one JSON object a file.")] = False,
    depth: Annotated[int, typer.Option(min=0, max=64, help="Levels of the tree to unfold.")] = 2,
    everything: Annotated[bool, typer.Option("--all", help="Unfold all levels, and long lists too.")] = False,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Of the training, if the file does not say.")] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 if weights_only=True would refuse a file.")
    ] = False,
) -> None:
    """Show all that is in a checkpoint: tree, tensors, bytes, facts about the run, and whether it is safe.

    Nothing in the file is run. Exit codes: 0 fine, 1 unsafe under --strict, 2 cannot be read.
    """
    code = 0
    for name in files:
        try:
            file = inspect(standard_input() if name == "-" else name, batch_size=batch_size)
            _print(file, json, depth, everything)
        except CheckpointError as error:
            print(f"mvae: {error}", file=sys.stderr)
            code = 2
            continue
        if strict and not file.safety.weights_only:
            code = code or 1
    if code:
        raise typer.Exit(code)


def _print(file: CheckpointFile, json: bool, depth: int, everything: bool) -> None:
    if json:
        from json import dumps

        print(dumps(file.to_dict(), allow_nan=False))
    else:
        from mvae.checkpoint.drawing.terminal import print_tree

        print_tree(file, depth, everything=everything)


def standard_input() -> memoryview:
    """All of standard input, mapped from a nameless temporary file, so that it need not fit in memory."""
    import mmap
    import shutil
    import tempfile

    with tempfile.TemporaryFile() as file:
        shutil.copyfileobj(sys.stdin.buffer, file, 1 << 20)
        if file.tell() == 0:
            raise CheckpointError("standard input is empty; a checkpoint was expected.")
        file.flush()
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


COMMANDS: list[tuple[str, Callable[..., Any]]] = [("inspect", inspect_command)]
"""The commands on checkpoint files, by name, for the application in `mvae.cli`."""
