"""Write a file whole or not at all. Knows nothing of torch.

What is written goes to a temporary file in the same folder; that is flushed to the disk, checked, and put in the
place of the old file in one step. So at every moment there is one whole file under the name: the old or the new one.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import ModuleType
from typing import BinaryIO

from mvae.errors import CheckpointError, CheckpointNotSavedError

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_PART = re.compile(r"\.[0-9a-f]{16}\.mvae-part")
"""The names of temporary files, which no pattern for checkpoints (`*.ckpt`) takes in."""

_DAY = 86_400

_ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "Free some space, keep fewer checkpoints, or save to another disk."),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "Save to a folder that you may write to."),
    errno.EISDIR: "Remove that folder, or save under another name.",
}


@contextmanager
def durable_file(path: str | os.PathLike[str], check: Callable[[str], None] | None = None) -> Iterator[BinaryIO]:
    """A binary file to write to, which becomes `path` when the block ends well, and vanishes when it does not.

    After the block it is on the disk, folder entry included: neither a kill nor a power cut loses it (POSIX, `fsync`
    and `rename`).

    Args:
        path: of the file; its folder is made if it is not there. A symbolic link is replaced, not written through.
        check: called with the temporary file's name before it takes its place; raises if the file is not as it
            should be.

    Raises:
        CheckpointNotSavedError: the folder cannot be made or written to, the disk is full, or writing failed.
    """
    path = os.path.abspath(path)
    folder = os.path.dirname(path)
    part, replaced = "", False
    try:
        _make_folder(folder)
        remove_litter(folder)
        file, part = _open_part(folder)
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if check is not None:
                check(part)
            if fcntl is None:
                file.close()  # Windows moves no open file; elsewhere the lock on it is held until it has its name
            os.replace(part, path)
            part, replaced = "", True
        _sync_folder(folder)
    except Exception as error:
        cause = _os_error_behind(error)
        if cause is None or isinstance(error, CheckpointError):
            raise
        failure = CheckpointNotSavedError(_explain(path, cause, replaced))
        failure.errno = cause.errno
        raise failure from error
    finally:
        if part:
            with suppress(OSError):
                os.unlink(part)


def remove_litter(folder: str) -> None:
    """Remove the temporary files of processes that were killed while they wrote; never one being written.

    Who writes one holds a lock on it, which the system lets go when the process dies, however it dies.
    """
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if _PART.fullmatch(entry.name):
                with suppress(OSError):
                    _remove_if_left(entry.path)


def _remove_if_left(part: str) -> None:
    if fcntl is None:
        if os.stat(part).st_mtime < time.time() - _DAY:
            os.unlink(part)
        return
    descriptor = os.open(part, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises if its writer lives
        os.unlink(part)
    finally:
        os.close(descriptor)


def _open_part(folder: str) -> tuple[BinaryIO, str]:
    """A new temporary file and its path, locked where the file system has locks."""
    while True:
        part = os.path.join(folder, f".{secrets.token_hex(8)}.mvae-part")
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        if fcntl is not None:
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_nlink == 0:  # somebody else's clean-up came between open and lock
                os.close(descriptor)
                continue
        return open(descriptor, "wb"), part


def _make_folder(folder: str) -> None:
    """`os.makedirs`, with every new folder's entry on the disk."""
    if not os.path.isdir(folder):
        parent = os.path.dirname(folder)
        if parent != folder:
            _make_folder(parent)
        with suppress(FileExistsError):  # made by another process meanwhile; if it is a file, opening in it fails
            os.mkdir(folder)
        _sync_folder(parent)


def _sync_folder(folder: str) -> None:
    if os.name == "nt":  # folders cannot be opened, and need not be
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that has no such thing
            raise
    finally:
        os.close(descriptor)


def _os_error_behind(error: BaseException | None) -> OSError | None:
    """What the disk said. torch.save follows it with a RuntimeError about its own bookkeeping."""
    while isinstance(error, RuntimeError):
        error = error.__cause__ or error.__context__
    return error if isinstance(error, OSError) else None


def _explain(path: str, error: OSError, replaced: bool) -> str:
    if replaced:
        return (
            f"{path} is written, but may be lost in a power cut: its folder was not saved: {error.strerror or error}."
        )
    stands = "The file that stood there before stands." if os.path.lexists(path) else "Nothing was left behind."
    advice = _ADVICE.get(error.errno or 0, "")
    return f"{path} was not saved: {error.strerror or error}. {stands} {advice}".rstrip()
