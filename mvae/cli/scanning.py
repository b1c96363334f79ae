"""Several files and folders in turn, as a scanner takes them: a line for each, and one exit code."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

from mvae.errors import CheckpointError, UnsupportedFileError

ENDINGS = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth", ".safetensors")
"""Of files in a folder that ought to be checkpoints: one that cannot be read is an error, and is not passed over."""


PIECES = re.compile(r"^\.metadata$|\.distcp$|\.safetensors\.index\.json$|-\d{5}-of-\d{5}\.safetensors$")
"""Names of files that make up one checkpoint with the others in their folder."""

DANGERS = ("do not load it", "is a pickle that")
"""What an error says of a file that would run something before it breaks."""


class Found(NamedTuple):
    """A file or a sharded checkpoint to look at.

    Attributes:
        path: where it is; `-` for standard input.
        wanted: it was named on the command line, or looks like a checkpoint; False for any other file in a folder.
    """

    path: str
    wanted: bool


def scan(names: list[str], look: Callable[[str, bool], int], folders: bool = True, quiet: bool = False) -> int:
    """Look at each of these files, and at every checkpoint in these folders and the folders in them.

    Args:
        names: of files and folders; `-` for standard input.
        look: looks at one; it is given the path, and True if there are several and each is to be one line. Gives an
            exit code.
        folders: open folders; without it they are given to `look` as they are.
        quiet: keep the count of files off standard output.

    Returns:
        The exit code: 2 if something cannot be read, else 1 if something has a finding, else 0.
    """
    files, problems = _files(names, folders)
    inside = any(path not in names for path, _ in files)
    several = inside or len(files) > 1
    codes, skipped = [0], 0
    for path, wanted in files:
        try:
            codes.append(look(path, several))
        except CheckpointError as error:
            if not wanted and _is_something_else(path, error):
                skipped += 1
                continue
            problems.append(str(error))
            print(f"mvae: {error}", file=sys.stderr)
    looked = len(files) - skipped
    if not looked:
        raise CheckpointError(f"there is no checkpoint in {', '.join(names)}, only {skipped:,} other files.")
    if inside:
        count = f"{looked:,} looked at, {skipped:,} other file{'s'[: skipped != 1]} skipped: no checkpoints."
        print(count, file=sys.stderr if quiet else sys.stdout)
    return 2 if problems else max(codes)


def _is_something_else(path: str, error: CheckpointError) -> bool:
    """True for a file that is no checkpoint and runs nothing, so neither for a damaged one nor for an attack."""
    if any(words in str(error) for words in DANGERS):
        return False
    return isinstance(error, UnsupportedFileError) or os.path.getsize(path) == 0


def _files(names: list[str], folders: bool) -> tuple[list[Found], list[str]]:
    """What there is to look at, in order, and folders that cannot be listed."""
    problems: list[str] = []

    def unreadable(error: OSError) -> None:
        problems.append(str(error))
        print(f"mvae: {error}", file=sys.stderr)

    def inside(top: str) -> Iterator[Found]:
        for folder, below, files in os.walk(top, onerror=unreadable):
            below.sort()
            pieces = {name for name in files if PIECES.search(name)}
            if pieces:  # one checkpoint; what else lies beside its pieces is looked at too
                yield Found(folder, True)
            for name in sorted({*files} - pieces - ({"meta.pt"} if ".metadata" in pieces else set())):
                yield Found(os.path.join(folder, name), name.lower().endswith(ENDINGS))

    found: list[Found] = []
    for name in names:
        found += inside(name) if folders and os.path.isdir(name) else [Found(name, True)]
    return found, problems
