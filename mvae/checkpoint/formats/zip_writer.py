"""Writes a checkpoint as `torch.save` does, to the byte, without torch.

A zip in which nothing is compressed. Every member's data starts at a multiple of 64 bytes, so that it can be mapped
into memory; a filler in its header, an extra field tagged `FB`, sees to that. Checksum and sizes follow the data (a
"data descriptor"), so that a file can be written in one go, to a pipe too. After the members come their directory
and its end. As in `caffe2/serialize/inline_container.cc`.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, NamedTuple, TypeAlias

from mvae.checkpoint.files import zip_structures as zs
from mvae.checkpoint.pickled.writer import Pickler, Stored
from mvae.durable import durable_file
from mvae.errors import CheckpointError

Output: TypeAlias = "str | os.PathLike[str] | BinaryIO"

_ROOT = "archive"


def refuse_to_overwrite(path: object, out: Output) -> None:
    """The file that is read is not the one to write.

    Raises:
        CheckpointError: it is.
    """
    if isinstance(path, (str, os.PathLike)) and isinstance(out, (str, os.PathLike)) and _same_file(path, out):
        raise CheckpointError(f"{os.fspath(out)} is the file that is read; it is not overwritten. Give another name.")


@contextmanager
def output(out: Output) -> Iterator[BinaryIO]:
    """What to write to: a new file that becomes `out` when all of it is on the disk, or `out` itself if it is a stream.

    Raises:
        CheckpointError: it cannot be written.
    """
    if not isinstance(out, (str, os.PathLike)):
        yield out
        return
    if os.path.exists(out) and not (os.path.isfile(out) or os.path.isdir(out)):
        with open(out, "wb") as file:  # a pipe or a device, which is not replaced by a file
            yield file
        return
    with durable_file(out) as file:
        yield file


def _same_file(a: str | os.PathLike[str], b: str | os.PathLike[str]) -> bool:
    try:
        return os.path.samefile(a, b)
    except OSError:  # one of them does not exist
        return False


class _Written(NamedTuple):
    """What the directory says of a member."""

    name: bytes
    header: int
    size: int
    crc32: int
    flags: int


class ZipWriter:
    """Writes the members one after the other; `close` adds the directory.

    Args:
        file: only ever written to.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.position = 0
        self._members: list[_Written] = []

    def _write(self, *pieces: bytes | memoryview) -> None:
        for piece in pieces:
            self.file.write(piece)
            self.position += len(piece)

    def add(self, name: str, size: int, blocks: Iterable[bytes | memoryview]) -> int:
        """Write a member and return its CRC-32.

        Raises:
            CheckpointError: the blocks do not add up to `size` bytes.
        """
        flags = zs.UTF8 | (zs.HAS_DESCRIPTOR if size else 0)
        member = _Written(f"{_ROOT}/{name}".encode(), self.position, size, 0, flags)
        self._write(*_local_header(member))
        start, crc32 = self.position, 0
        for block in blocks:
            crc32 = zlib.crc32(block, crc32)
            self._write(block)
        if self.position - start != size:
            raise CheckpointError(f"'{name}' should be {size:,} bytes and came to {self.position - start:,}.")
        if size:
            wide = size >= zs.MAX32 or member.header >= zs.MAX32
            self._write((zs.DESCRIPTOR64 if wide else zs.DESCRIPTOR).write(crc32, size, size))
        self._members.append(member._replace(crc32=crc32))
        return crc32

    def close(self) -> None:
        """Write the directory and its end."""
        start = self.position
        for member in self._members:
            self._write(*_directory_entry(member))
        end = self.position
        count, size = len(self._members), end - start
        short = min(count, zs.MAX16)
        self._write(
            zs.END64.write(44, 0x31E, 45, 0, 0, count, count, size, start),
            zs.LOCATOR64.write(0, end, 1),
            zs.END.write(0, 0, short, short, min(size, zs.MAX32), min(start, zs.MAX32), 0),
        )


def _local_header(member: _Written) -> tuple[bytes, ...]:
    """With the sizes left out: they follow the data."""
    extra = zs.write_sizes64(member.size, member.header)
    filler = -(member.header + zs.LOCAL.size + len(member.name) + len(extra) + 4) % zs.ALIGNMENT
    extra += struct.pack("<2H", zs.PADDING_TAG, filler) + b"Z" * filler
    return zs.LOCAL.write(0, member.flags, 0, 0, 0, 0, 0, 0, len(member.name), len(extra)), member.name, extra


def _directory_entry(member: _Written) -> tuple[bytes, ...]:
    extra = zs.write_sizes64(member.size, member.header)
    size, header = min(member.size, zs.MAX32), min(member.header, zs.MAX32)
    lengths = (len(member.name), len(extra), 0, 0, 0, 0)
    return zs.ENTRY.write(0, 0, member.flags, 0, 0, 0, member.crc32, size, size, *lengths, header), member.name, extra


def write_checkpoint(
    file: BinaryIO, tree: Any, content: Callable[[Stored], Iterable[bytes | memoryview]], pickler: Pickler
) -> int:
    """Write a tree as a checkpoint that `torch.load(weights_only=True)` reads.

    Args:
        file: only ever written to.
        tree: what `mvae.checkpoint.read` gives, or parts of it.
        content: the bytes of a storage, least significant byte first.
        pickler: a new one; it says afterwards which values were replaced.

    Returns:
        The bytes written.

    Raises:
        CheckpointError: a value that does not fit, or a storage whose bytes are not there, or no longer those that
            its checksum was made of.
    """
    pickle = pickler.dump(tree)
    writer = ZipWriter(file)
    writer.add("data.pkl", len(pickle), [pickle])
    _add_text(writer, ".format_version", "1")
    _add_text(writer, ".storage_alignment", str(zs.ALIGNMENT))
    _add_text(writer, "byteorder", "little")
    checksums = {}
    for stored in pickler.storages.values():
        storage, record = stored.storage, stored.storage.record
        if storage.location == "meta":
            continue
        crc32 = checksums[stored.key] = writer.add(f"data/{stored.key}", storage.nbytes, content(stored))
        if record is not None and record.crc32 and storage.byteorder == "little" and crc32 != record.crc32:
            raise CheckpointError(f"'{record.name}' is damaged: its checksum is wrong. `mvae salvage` leaves it out.")
    _add_text(writer, "version", "3\n")
    _add_text(writer, ".data/serialization_id", _serialization_id(pickle, checksums))
    writer.close()
    return writer.position


def _add_text(writer: ZipWriter, name: str, text: str) -> None:
    writer.add(name, len(text), [text.encode()])


def _serialization_id(pickle: bytes, checksums: dict[str, int]) -> str:
    """Forty digits that differ between files with different contents; PyTorch's own are made in another way."""
    crc32 = zlib.crc32(struct.pack(f"<{len(checksums)}L", *checksums.values()), zlib.crc32(pickle))
    return f"{zlib.adler32(pickle):020}{crc32:020}"
