"""The members of a damaged zip, from whatever says something of them: their own headers, and the directory's entries.

A zip says everything twice. In front of every member stands a header with its name, after it its checksum and size;
the directory at the end has all of that again. Where one is damaged or cut off, the other may not be.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

from mvae.checkpoint.files.source import STORED, Record, Source
from mvae.checkpoint.formats.stream import BLOCK, Stream

_HEADER = struct.Struct("<4s5H3L2H")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_HAS_DESCRIPTOR = 0x8
_ALIGNMENT = 64
_MAX_NAME = 4096
_MAX32 = 0xFFFFFFFF


class Member(NamedTuple):
    """What was found under a name.

    Attributes:
        name: without the folder that PyTorch puts everything in.
        record: where its bytes are; None if they are not all there. Its checksum is None if the file ends before that.
        problem: what is wrong, if there is no record.
        follows: True if it stands directly after the member before it in the list, with nothing in between.
    """

    name: str
    record: Record | None
    problem: str
    follows: bool


class _Header(NamedTuple):
    """A member's own header."""

    at: int
    name: str
    data: int
    flags: int
    method: int
    crc32: int


SizeOf = Callable[[str, Record], "int | None"]
"""Given the name of a member and all of the file from its first byte on: its bytes, or None to pass it over."""


class Headers:
    """Follows the headers from the beginning of the file; where the next one is not in its place, it is looked for."""

    def __init__(self, source: Source, stream: Stream) -> None:
        self.source = source
        self.stream = stream

    def members(self, size_of: SizeOf) -> Iterator[Member]:
        """Every member that has a header and a size. Checksums are not compared with the data here."""
        header, end = self._next(0), -1
        while header is not None:
            position = header.data
            name = inner_name(header.name)
            size = size_of(name, Record(self.source, header.name, header.data, self.source.size - header.data))
            if size is not None:
                record, position, problem = self._take(header, size)
                yield Member(name, record, problem, header.at == end)
                end = position
            header = self._next(position)

    def _take(self, header: _Header, size: int) -> tuple[Record | None, int, str]:
        """The record of a member whose size is known, where to go on, and what is wrong."""
        past = header.data + size
        if past > self.source.size:
            return None, header.data, f"cut off: {self.source.size - header.data:,} of {size:,} bytes are left"
        if header.method != STORED:
            return None, header.data, "compressed, which cannot be read without the directory"
        crc32: int | None = header.crc32
        if header.flags & _HAS_DESCRIPTOR and size:
            crc32, past = self._descriptor(past, size)
            if crc32 is None and past < self.source.size:
                return None, header.data, "not whole: its checksum does not stand where it should"
        return Record(self.source, header.name, header.data, size, crc32), past, ""

    def _descriptor(self, at: int, size: int) -> tuple[int | None, int]:
        """The CRC-32 that follows the data, and where it ends; None and the file's end if the file ends before it."""
        for layout in ("<4s3L", "<4sL2Q"):
            end = at + struct.calcsize(layout)
            if end > self.source.size:
                return None, self.source.size
            mark, crc32, stored, full = struct.unpack_from(layout, self.source.data, at)
            if mark == b"PK\7\b" and stored == full == size:
                return crc32, end
        return None, at

    def _next(self, position: int) -> _Header | None:
        """The first header from `position` on."""
        while True:
            if self.source.data[position : position + 4] != b"PK\3\4":
                position = search(self.stream, self.source, b"PK\3\4", position)
                if position < 0:
                    return None
            header = read_header(self.source, position)
            if header is not None:
                return header
            position += 4


def inner_name(name: str) -> str:
    """`data/0` for `archive/data/0`. What the folder is called does not matter, and may be damaged."""
    return name.partition("/")[2]


def read_header(source: Source, at: int) -> _Header | None:
    """The header that starts at a byte, or None if none does."""
    if at < 0 or at + _HEADER.size > source.size or source.data[at : at + 4] != b"PK\3\4":
        return None
    _, _, flags, method, _, _, crc32, _, _, name_length, extra_length = _HEADER.unpack_from(source.data, at)
    name_at = at + _HEADER.size
    data = name_at + name_length + extra_length
    if data > source.size or name_length > _MAX_NAME or not _is_chain(source.data[name_at + name_length : data]):
        return None
    name = bytes(source.data[name_at : name_at + name_length]).decode("utf-8", "replace")
    return _Header(at, name, data, flags, method, crc32)


def _is_chain(extra: memoryview) -> bool:
    """True for fields one after the other, each with its length: if a length is damaged, they do not end together."""
    at = 0
    while at + 4 <= len(extra):
        at += 4 + int.from_bytes(extra[at + 2 : at + 4], "little")
    return at == len(extra)


def search(stream: Stream, source: Source, pattern: bytes, position: int) -> int:
    """Where the pattern stands next, or -1. Reads a little at first, so that many short ways stay short."""
    step = 4096
    while position < source.size:
        length = min(step + len(pattern) - 1, source.size - position)
        found = b"".join(map(bytes, stream.span(source, position, length))).find(pattern)
        if found >= 0:
            return position + found
        position += step
        step = min(2 * step, BLOCK)
    return -1


def directory_records(source: Source) -> list[Record]:
    """A record for each entry of the directory that makes sense, in order; empty if there is no directory."""
    found: list[Record] = []
    at = _directory_start(source)
    while at is not None and at + _ENTRY.size <= source.size and source.data[at : at + 4] == b"PK\1\2":
        fields = _ENTRY.unpack_from(source.data, at)
        method, crc32, stored, full = fields[4], *fields[7:10]
        name_length, extra_length, comment_length = fields[10:13]
        name_at = at + _ENTRY.size
        raw = bytes(source.data[name_at : name_at + name_length])
        extra = bytes(source.data[name_at + name_length : name_at + name_length + extra_length])
        at = name_at + name_length + extra_length + comment_length
        sizes = _wide(extra, full, stored, fields[16])
        if method == STORED and sizes is not None and len(raw) == name_length <= _MAX_NAME:
            name = raw.decode("utf-8", "replace")
            offset = _data_offset(source, sizes[2], raw)
            if sizes[0] == sizes[1] and offset + sizes[0] <= source.size:
                found.append(Record(source, name, offset, sizes[0], crc32))
    return found


def _directory_start(source: Source) -> int | None:
    """Where the directory starts, as the records that end the file say."""
    first = max(0, source.size - 22 - 0xFFFF)
    tail = bytes(source.data[first:])
    end, end64 = tail.rfind(b"PK\5\6"), tail.rfind(b"PK\6\6")
    if end64 >= 0 and end64 + 56 <= len(tail):
        return int.from_bytes(tail[end64 + 48 : end64 + 56], "little")
    return int.from_bytes(tail[end + 16 : end + 20], "little") if end >= 0 else None


def _wide(extra: bytes, full: int, stored: int, header: int) -> tuple[int, int, int] | None:
    """The sizes and the header's place, with those past 4 GB taken from the extra field."""
    numbers = [full, stored, header]
    wanted = [i for i, number in enumerate(numbers) if number == _MAX32]
    if wanted:
        if len(extra) < 4 + 8 * len(wanted) or extra[:2] != b"\1\0":
            return None
        for i, number in zip(wanted, struct.unpack_from(f"<{len(wanted)}Q", extra, 4), strict=True):
            numbers[i] = number
    return numbers[0], numbers[1], numbers[2]


def _data_offset(source: Source, header: int, name: bytes) -> int:
    """Where a member's data starts: after its header, or if that is damaged, where PyTorch would have put it."""
    found = read_header(source, header)
    if found is not None and found.name.encode() == name:
        return found.data
    before = header + _HEADER.size + len(name) + 4
    return before + -before % _ALIGNMENT
