"""Writes a checkpoint as `torch.save` does, to the byte, without torch.

A zip in which nothing is compressed. Every member's data starts at a multiple of 64 bytes, so that it can be mapped
into memory; a filler in its header, an extra field tagged `FB`, sees to that. Checksum and sizes follow the data (a
"data descriptor"), so that a file can be written in one go, to a pipe too. After the members come their directory
and its end. Section numbers refer to PKWARE's APPNOTE.TXT; the rest follows `caffe2/serialize/inline_container.cc`.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, NamedTuple, TypeAlias

from mvae.checkpoint.pickled.writer import Pickler, Stored
from mvae.durable import durable_file
from mvae.errors import CheckpointError

Output: TypeAlias = "str | os.PathLike[str] | BinaryIO"

ALIGNMENT = 64
_MAX32, _MAX16 = 0xFFFFFFFF, 0xFFFF
_FLAGS = 0x0808  # a data descriptor follows; names are UTF-8
_UTF8 = 0x0800


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
        root: the folder that all members are put in.
    """

    def __init__(self, file: BinaryIO, root: str = "archive") -> None:
        self.file = file
        self.root = root
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
        member = _Written(f"{self.root}/{name}".encode(), self.position, size, 0, _FLAGS if size else _UTF8)
        self._write(*_local_header(member))
        start, crc32 = self.position, 0
        for block in blocks:
            crc32 = zlib.crc32(block, crc32)
            self._write(block)
        if self.position - start != size:
            raise CheckpointError(f"'{name}' should be {size:,} bytes and came to {self.position - start:,}.")
        member = member._replace(crc32=crc32)
        if size:
            wide = size >= _MAX32 or member.header >= _MAX32
            self._write(struct.pack("<4sL2Q" if wide else "<4s3L", b"PK\7\b", crc32, size, size))
        self._members.append(member)
        return crc32

    def close(self) -> None:
        """Write the directory and its end (4.3.12 to 4.3.16)."""
        start = self.position
        for member in self._members:
            self._write(*_directory_entry(member))
        end = self.position
        count, size = len(self._members), end - start
        self._write(struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 0x31E, 45, 0, 0, count, count, size, start))
        self._write(struct.pack("<4sLQL", b"PK\6\7", 0, end, 1))
        short = min(count, _MAX16)
        self._write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, short, short, min(size, _MAX32), min(start, _MAX32), 0))


def _local_header(member: _Written) -> tuple[bytes, ...]:
    """4.3.7, with the sizes left out: they follow the data."""
    extra = _sizes64(member)
    before = member.header + 30 + len(member.name) + len(extra) + 4
    filler = -before % ALIGNMENT
    extra += b"FB" + struct.pack("<H", filler) + b"Z" * filler
    fixed = struct.pack("<4s5H3L2H", b"PK\3\4", 0, member.flags, 0, 0, 0, 0, 0, 0, len(member.name), len(extra))
    return fixed, member.name, extra


def _sizes64(member: _Written) -> bytes:
    """The extra field with what does not fit in 32 bits (4.5.3)."""
    numbers = [member.size, member.size] if member.size >= _MAX32 else []
    numbers += [member.header] if member.header >= _MAX32 else []
    return struct.pack(f"<2H{len(numbers)}Q", 1, 8 * len(numbers), *numbers) if numbers else b""


def _directory_entry(member: _Written) -> tuple[bytes, ...]:
    extra = _sizes64(member)
    size, header = min(member.size, _MAX32), min(member.header, _MAX32)
    lengths = (len(member.name), len(extra), 0, 0, 0, 0)
    fixed = struct.pack(
        "<4s6H3L5H2L", b"PK\1\2", 0, 0, member.flags, 0, 0, 0, member.crc32, size, size, *lengths, header
    )
    return fixed, member.name, extra


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
    _add_text(writer, ".storage_alignment", str(ALIGNMENT))
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
