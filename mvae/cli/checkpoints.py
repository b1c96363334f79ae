"""`mvae inspect | verify | diff | salvage | export | plain`: what to do with checkpoint files, without torch."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, TextIO

from mvae.cli.options import Parser, whole
from mvae.cli.scanning import scan
from mvae.errors import CheckpointError
from mvae.text import printable

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable

    from rich.progress import Progress

    from mvae.checkpoint.inspection import CheckpointFile

FILE = "A checkpoint, or - for standard input."
FILES = "Checkpoints, or - for standard input."
OUT = "The file to write, or - for standard output."
JSON = "For programs: one JSON object."
JSON_EACH = "For programs: one JSON object a file."


def inspect_command(parser: Parser) -> int:
    """Show all that is in a checkpoint: tree, tensors, bytes, facts about the run, and whether it is safe.

    Nothing in the file is run. With --strict, several files and folders get a line each. Exit codes: 0 fine, 1 unsafe
    under --strict, 2 cannot be read.
    """
    add = parser.add_argument
    add("files", metavar="FILE", nargs="+", help=f"{FILES} With --strict, folders too: every checkpoint in them.")
    add("--json", action="store_true", help=JSON_EACH)
    add("--depth", metavar="N", type=whole(0, 64), default=2, help="Levels of the tree to unfold. [default: 2]")
    add("--all", action="store_true", help="Unfold all levels, and long lists too.")
    add("--batch-size", metavar="N", type=whole(1), help="Of the training, if the file does not say.")
    add("--strict", action="store_true", help="Exit with 1 if weights_only=True would refuse a file.")
    options = parser.options()

    from mvae.checkpoint.drawing.terminal import print_tree
    from mvae.checkpoint.inspection import inspect

    def look(name: str, several: bool) -> int:
        file = inspect(_source(name), batch_size=options.batch_size)
        if options.json:
            _report(file, options.json)
        elif several and options.strict:
            print(_verdict(file))
        else:
            print_tree(file, options.depth, everything=options.all)
        return int(options.strict and not file.safety.passes)

    return scan(options.files, look, folders=options.strict, quiet=options.json)


def _verdict(file: CheckpointFile) -> str:
    """One line on what loading a file would run."""
    safety = file.safety
    if safety.system:
        word, why = "DANGER", [refusal.reason for refusal in safety.system]
    elif not safety.weights_only:
        word, why = "refused", [*(refusal.name for refusal in safety.refused), *safety.obstacles]
    elif file.contents.trace:
        word, why = "safe", ["torch.load(weights_only=True) takes it"]
    else:
        word, why = "safe", ["there is no pickle in it"]
    more = f" and {len(why) - 3:,} more" if len(why) > 3 else ""
    return printable(f"{file.path}: {word}: {'; '.join(why[:3])}{more}")


def verify_command(parser: Parser) -> int:
    """Check a checkpoint's structure and every checksum in it; say which tensor is damaged.

    torch.load never looks at the checksums. Several files and folders get a line each. Exit codes: 0 whole, 1 damaged,
    2 cannot be read.
    """
    parser.add_argument("files", metavar="FILE", nargs="+", help=f"{FILES} Folders too: every checkpoint in them.")
    parser.add_argument("--json", action="store_true", help=JSON_EACH)
    options = parser.options()

    from mvae.checkpoint.tools.verifying import verify

    def look(name: str, several: bool) -> int:
        with _Bar(f"reading {name}") as progress:
            found = verify(_source(name), progress)
        if several and not options.json:
            first, *rest = str(found).splitlines()
            print("; ".join([first, *map(str.strip, rest[:4])]) + (" …" if rest[4:] else ""))
        else:
            _report(found, options.json)
        return int(not found.ok)

    return scan(options.files, look, quiet=options.json)


def diff_command(parser: Parser) -> int:
    """Show what differs between two checkpoints: values, and which tensors changed and by how much.

    Which tensors changed follows from the checksums, without reading a weight. Exit codes: 0 the same, 1 different,
    2 cannot be read.
    """
    parser.add_argument("a", metavar="A", help=FILE)
    parser.add_argument("b", metavar="B", help="Another.")
    parser.add_argument("--json", action="store_true", help=JSON)
    options = parser.options()

    from mvae.checkpoint.tools.comparing import diff
    from mvae.checkpoint.tools.difference import lines

    if options.a == options.b == "-":
        raise CheckpointError("standard input can be one of the two, not both.")
    with _Bar("comparing") as progress:
        found = diff(_source(options.a), _source(options.b), progress)
        if options.json:
            _report(found, options.json)
        else:
            for line in lines(found):
                progress.print(line)
    return int(not found.same)


def salvage_command(parser: Parser) -> int:
    """Save what a truncated or damaged checkpoint still holds, as a checkpoint that loads; list what is lost.

    Exit codes: 0 nothing was lost, 1 something was, or all of it, and nothing is written; 2 cannot be read.
    """
    _file_to_file(parser)
    parser.add_argument("--all", action="store_true", help="Name each tensor that is lost.")
    options = parser.options()

    from mvae.checkpoint.tools.salvaging import salvage

    return int(not _written(salvage, options).complete)


def export_command(parser: Parser) -> int:
    """Write the weights alone to OUT, which ends in .safetensors or .ckpt, with hyperparameters and vocabulary.

    What torch.compile, DistributedDataParallel and other wrappers put into the names is taken out. Exit codes:
    0 written, 2 cannot be.
    """
    _file_to_file(parser)
    add = parser.add_argument
    add("--format", help="safetensors or ckpt, if OUT's ending does not say.")
    add("--key", help="Where the weights are, such as model.state_dict.")
    prefix = "Taken off the tensors' names, such as module. or model.; may be repeated."
    add("--strip-prefix", metavar="PREFIX", action="append", default=[], help=prefix)
    add("--copy-shared", action="store_true", help="Write tied weights to safetensors under each of their names.")
    options = parser.options()

    from mvae.checkpoint.tools.exporting import export

    names = ("format", "key", "strip_prefix", "copy_shared")
    _written(export, options, **{name: getattr(options, name) for name in names})
    return 0


def plain_command(parser: Parser) -> int:
    """Write a checkpoint again in plain values: the cure for "Weights only load failed".

    torch.load(weights_only=True) takes it. Everything is kept, and training goes on from OUT. What each object became
    is listed. Exit codes: 0 written, 2 cannot be, or something has no plain form.
    """
    _file_to_file(parser)
    lossy = "Write it even if something, such as a function, has no plain form."
    parser.add_argument("--allow-loss", action="store_true", help=lossy)
    parser.add_argument("--all", action="store_true", help="Name each value that was replaced.")
    options = parser.options()

    from mvae.checkpoint.tools.plain_values import plain

    _written(plain, options, allow_loss=options.allow_loss)
    return 0


def _file_to_file(parser: Parser) -> None:
    """The options of a command that reads one checkpoint and writes another file."""
    parser.add_argument("file", metavar="FILE", help=FILE)
    parser.add_argument("--out", "-o", metavar="OUT", required=True, help=OUT)
    parser.add_argument("--json", action="store_true", help=JSON)


def _written(tool: Callable[..., Any], options: Namespace, **settings: Any) -> Any:
    """Have a tool read one checkpoint and write another file; its report, which is also printed."""
    out = sys.stdout.buffer if options.out == "-" else options.out
    with _Bar(f"reading {options.file}") as progress:
        found = tool(_source(options.file), out, progress=progress, **settings)
    text = found if options.json or "all" not in options else found.text(options.all)
    _report(text, options.json, file=sys.stderr if options.out == "-" else sys.stdout)
    return found


def _source(name: str) -> str | memoryview:
    return _standard_input() if name == "-" else name


def _report(found: Any, json: bool, file: TextIO | None = None) -> None:
    from json import dumps

    print(dumps(found.to_dict(), allow_nan=False) if json else found, file=file)


def _standard_input() -> memoryview:
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


class _Bar:
    """A progress bar on standard error, if that is a terminal and it takes more than a second."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.done = 0
        self.started = time.monotonic()
        self.bar: Progress | None = None

    def __enter__(self) -> _Bar:
        return self

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

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()
