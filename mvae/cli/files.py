"""``mvae verify | diff | salvage | export``: what to do with checkpoint files. Torch is never imported."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from mvae.cli.checkpoint import standard_input
from mvae.errors import CheckpointError

if TYPE_CHECKING:
    from rich.progress import Progress

_Json = Annotated[bool, typer.Option("--json", help="For programs: one JSON object.")]
_Out = Annotated[str, typer.Option("--out", "-o", metavar="OUT", help="The file to write, or - for standard output.")]
_File = Annotated[str, typer.Argument(metavar="FILE", help="A checkpoint, or - for standard input.")]


def verify_command(
    files: Annotated[list[str], typer.Argument(metavar="FILE…", help="Checkpoints, or - for standard input.")],
    json: Annotated[bool, typer.Option("--json", help="For programs: one JSON object a file.")] = False,
) -> None:
    """Check a checkpoint's structure and every checksum in it; say which tensor is damaged.

    torch.load never looks at the checksums. Exit codes: 0 whole, 1 damaged, 2 cannot be read.
    """
    from mvae.checkpoint.tools.verifying import verify

    damaged = unreadable = False
    for name in files:
        try:
            with _Bar(f"reading {name}") as progress:
                found = verify(_source(name), progress)
        except CheckpointError as error:
            print(f"mvae: {error}", file=sys.stderr)
            unreadable = True
            continue
        _report(found, json)
        damaged = damaged or not found.ok
    raise typer.Exit(2 if unreadable else int(damaged))


def diff_command(
    a: Annotated[str, typer.Argument(metavar="A", help="A checkpoint, or - for standard input.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another.")],
    json: _Json = False,
) -> None:
    """Show what differs between two checkpoints: values, and which tensors changed and by how much.

    Which tensors changed follows from the checksums, without reading a weight. Exit codes: 0 the same, 1 different,
    2 cannot be read.
    """
    from mvae.checkpoint.tools.comparing import diff
    from mvae.checkpoint.tools.difference import lines

    if a == b == "-":
        raise CheckpointError("standard input can be one of the two, not both.")
    with _Bar("comparing") as progress:
        found = diff(_source(a), _source(b), progress)
        if json:
            _report(found, json)
        else:
            for line in lines(found):
                progress.print(line)
    raise typer.Exit(int(not found.same))


def salvage_command(
    file: _File,
    out: _Out,
    json: _Json = False,
    everything: Annotated[bool, typer.Option("--all", help="Name each tensor that is lost.")] = False,
) -> None:
    """Save what a truncated or damaged checkpoint still holds, as a checkpoint that loads; list what is lost.

    Exit codes: 0 nothing was lost, 1 something was, 2 there is nothing to save.
    """
    from mvae.checkpoint.tools.salvaging import salvage

    with _Bar(f"reading {file}") as progress:
        found = salvage(_source(file), _target(out), progress)
    _report(found if json else found.text(everything), json, error=out == "-")
    raise typer.Exit(int(not found.complete))


def export_command(
    file: _File,
    out: _Out,
    json: _Json = False,
    format: Annotated[str | None, typer.Option(help="safetensors or ckpt, if OUT's ending does not say.")] = None,
    key: Annotated[str | None, typer.Option(help="Where the weights are, such as model.state_dict.")] = None,
    strip_prefix: Annotated[
        list[str] | None, typer.Option(help="Taken off the tensors' names, such as module. or model.; may be repeated.")
    ] = None,
    copy_shared: Annotated[
        bool, typer.Option("--copy-shared", help="Write tied weights to safetensors under each of their names.")
    ] = False,
) -> None:
    """Write the weights alone to OUT, which ends in .safetensors or .ckpt, with hyperparameters and vocabulary.

    _orig_mod., which torch.compile leaves, is taken out of the names. Exit codes: 0 written, 2 cannot be.
    """
    from mvae.checkpoint.tools.exporting import export

    with _Bar(f"reading {file}") as progress:
        found = export(
            _source(file),
            _target(out),
            format=format,
            key=key,
            strip_prefix=strip_prefix or (),
            copy_shared=copy_shared,
            progress=progress,
        )
    _report(found, json, error=out == "-")


def _source(name: str) -> str | memoryview:
    return standard_input() if name == "-" else name


def _target(name: str) -> str | BinaryIO:
    return sys.stdout.buffer if name == "-" else name


def _report(found: Any, json: bool, error: bool = False) -> None:
    from json import dumps

    print(dumps(found.to_dict(), allow_nan=False) if json else found, file=sys.stderr if error else sys.stdout)


class _Bar(AbstractContextManager["_Bar"]):
    """A progress bar on standard error, if that is a terminal and it takes more than a second."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.done = 0
        self.started = time.monotonic()
        self.bar: Progress | None = None

    def __call__(self, count: int) -> None:
        """Count some bytes that were read."""
        self.done += count
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], completed=self.done)
        elif time.monotonic() - self.started > 1 and sys.stderr.isatty():
            self._show()

    def _show(self) -> None:
        from rich.console import Console
        from rich.progress import DownloadColumn, Progress, SpinnerColumn, TextColumn, TransferSpeedColumn

        columns = (SpinnerColumn(), TextColumn("{task.description}"), DownloadColumn(), TransferSpeedColumn())
        self.bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self.bar.add_task(self.what, total=None, completed=self.done)
        self.bar.start()

    def print(self, line: str) -> None:
        """Print a line above the bar."""
        if self.bar is not None:
            self.bar.stop()
            self.bar, self.started = None, time.monotonic()
        print(line, flush=True)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.bar is not None:
            self.bar.stop()


COMMANDS: list[tuple[str, Callable[..., Any]]] = [
    ("verify", verify_command),
    ("diff", diff_command),
    ("salvage", salvage_command),
    ("export", export_command),
]
"""The commands, by name, for the application in `mvae.cli`."""
