"""Several files and folders in turn, as a scanner takes them: a line for each, and one exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

from mvae.errors import CheckpointError

ENDINGS = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth", ".safetensors")
"""Of files in a folder that ought to be checkpoints: one that cannot be read is an error, and is not passed over."""


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
            if wanted or "do not load it" in str(error):
                problems.append(str(error))
                print(f"mvae: {error}", file=sys.stderr)
            else:
                skipped += 1
    looked = len(files) - skipped
    if not looked:
        raise CheckpointError(f"there is no checkpoint in {', '.join(names)}, only {skipped:,} other files.")
    if inside:
        count = f"{looked:,} looked at, {skipped:,} other file{'s'[: skipped != 1]} skipped: no checkpoints."
        print(count, file=sys.stderr if quiet else sys.stdout)
    return 2 if problems else max(codes)


def _files(names: list[str], folders: bool) -> tuple[list[Found], list[str]]:
    """What there is to look at, in order, and folders that cannot be listed."""
    problems: list[str] = []

    def unreadable(error: OSError) -> None:
        problems.append(str(error))
        print(f"mvae: {error}", file=sys.stderr)

    def inside(top: str) -> Iterator[Found]:
        for folder, below, files in os.walk(top, onerror=unreadable):
            below.sort()
            shards = {name for name in files if name == ".metadata" or name.endswith(".distcp")}
            if shards:  # one checkpoint; what else lies beside its pieces is looked at too
                yield Found(folder, True)
                shards.add("meta.pt")
            for name in sorted({*files} - shards):
                yield Found(os.path.join(folder, name), name.lower().endswith(ENDINGS))

    found: list[Found] = []
    for name in names:
        found += inside(name) if folders and os.path.isdir(name) else [Found(name, True)]
    return found, problems
