"""The members of a damaged zip, from whatever says something of them: their own headers, and the directory's entries.

A zip says everything twice. In front of every member stands a header with its name, after it its checksum and size;
the directory at the end has all of that again. Where one is damaged or cut off, the other may not be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from mvae.checkpoint.files import zip_structures as zs
from mvae.checkpoint.files.source import STORED, Record, Source
from mvae.checkpoint.formats.stream import BLOCK, Stream

_MAX_NAME = 4096


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
        if header.flags & zs.HAS_DESCRIPTOR and size:
            crc32, past = self._descriptor(past, size)
            if crc32 is None and past < self.source.size:
                return None, header.data, "not whole: its checksum does not stand where it should"
        return Record(self.source, header.name, header.data, size, crc32), past, ""

    def _descriptor(self, at: int, size: int) -> tuple[int | None, int]:
        """The CRC-32 that follows the data, and where it ends; None and the file's end if the file ends before it."""
        cut_off = at + zs.DESCRIPTOR64.size > self.source.size
        return zs.read_descriptor(self.source.data, at, size, size) or (None, self.source.size if cut_off else at)

    def _next(self, position: int) -> _Header | None:
        """The first header from `position` on."""
        while True:
            if self.source.data[position : position + 4] != zs.LOCAL.mark:
                position = search(self.stream, self.source, zs.LOCAL.mark, position)
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
    local = zs.LOCAL.read(source.data, at)
    if local is None or local.name_length > _MAX_NAME:
        return None
    name_at = at + zs.LOCAL.size
    extra_at = name_at + local.name_length
    data = extra_at + local.extra_length
    if data > source.size or not _is_chain(source.data[extra_at:data]):
        return None
    name = bytes(source.data[name_at:extra_at]).decode("utf-8", "replace")
    return _Header(at, name, data, local.flags, local.method, local.crc32)


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
    ends = (kind.read(source.data, zs.find_last(source.data, kind)) for kind in (zs.END64, zs.END))
    at = next((end.start for end in ends if end is not None), source.size)
    while (entry := zs.ENTRY.read(source.data, at)) is not None:
        name_at = at + zs.ENTRY.size
        extra_at = name_at + entry.name_length
        raw = bytes(source.data[name_at:extra_at])
        extra = bytes(source.data[extra_at : extra_at + entry.extra_length])
        at = extra_at + entry.extra_length + entry.comment_length
        sizes = zs.read_sizes64(extra, entry.size, entry.stored, entry.header)
        if entry.method == STORED and sizes is not None and len(raw) == entry.name_length <= _MAX_NAME:
            size, stored, header = sizes
            offset = _data_offset(source, header, raw)
            if size == stored and offset + size <= source.size:
                found.append(Record(source, raw.decode("utf-8", "replace"), offset, size, entry.crc32))
    return found


def _data_offset(source: Source, header: int, name: bytes) -> int:
    """Where a member's data starts: after its header, or if that is damaged, where PyTorch would have put it."""
    found = read_header(source, header)
    if found is not None and found.name.encode() == name:
        return found.data
    before = header + zs.LOCAL.size + len(name) + 4
    return before + -before % zs.ALIGNMENT
