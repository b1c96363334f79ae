"""Save a checkpoint so that neither a kill, a full disk nor a power cut costs the one that was there before."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from lightning.pytorch.plugins.io import TorchCheckpointIO

from mvae.checkpoint.files.archive import Archive
from mvae.checkpoint.files.source import Source
from mvae.checkpoint.formats.stream import Stream
from mvae.durable import durable_file
from mvae.errors import CheckpointError, CheckpointNotSavedError


def save(checkpoint: Any, path: str | os.PathLike[str]) -> None:
    """`torch.save`, whole or not at all: see `durable_file`.

    Tensors are written from where they are, without a second copy in memory, and what was written is read back and
    compared with its checksums before it takes the place of the old file.

    Raises:
        CheckpointNotSavedError: the folder cannot be written to, the disk is full, or the file read back is not the
            one that was written. The old file stands.
    """
    with durable_file(path, check=check_written) as file:
        torch.save(checkpoint, file)


class DurableCheckpointIO(TorchCheckpointIO):
    """Lightning's way to disk (a `CheckpointIO`) through `save`: `Trainer(plugins=[DurableCheckpointIO()])`.

    Lightning's own builds the file in memory first, a second copy of everything; goes through `$TMPDIR`, from where
    moving it may be a copy that a kill cuts short; never calls `fsync`; and says nothing of a folder that cannot be
    written to. Loading and removing are Lightning's own, and so is saving to anything but a local path (`s3://…`).
    It can be wrapped: in `AsyncCheckpointIO(DurableCheckpointIO())` a save that fails is an error in the next one, or
    when the fit ends.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Save to a local path, whole or not at all.

        Raises:
            CheckpointNotSavedError: see `save`.
            TypeError: `storage_options` were passed; there are none.
        """
        files, local_path = url_to_fs(str(path))
        if storage_options is not None or not isinstance(files, LocalFileSystem):
            super().save_checkpoint(checkpoint, path, storage_options)
        else:
            save(checkpoint, local_path)


def check_written(path: str) -> None:
    """Read a zip file back and compare all of it with its checksums, in a fixed amount of memory.

    Raises:
        CheckpointNotSavedError: it is not a whole zip file, or a checksum differs.
    """
    try:
        archive = Archive(Source.open(path))
        # Checksums can be switched off: torch.serialization.set_crc32_options(False).
        members = archive.members.values() if any(member.crc32 for member in archive.members.values()) else ()
        with Stream() as stream:
            damaged = [member.name for member in members if stream.crc32(member) != member.crc32]
    except CheckpointError as error:
        raise CheckpointNotSavedError(f"What was written does not read back, the old file stands: {error}") from error
    if damaged:
        raise CheckpointNotSavedError(
            f"What was written reads back with other bytes in '{damaged[0]}', so the old file stands. The disk or the "
            "memory of this machine is failing."
        )
