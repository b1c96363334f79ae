"""The structures that a zip file is made of, each once: for the reader, the writer and the search through what is left.

Section numbers refer to PKWARE's APPNOTE.TXT. All numbers are little-endian; what does not fit in 32 bits is written as
`MAX32` and stands in an extra field (4.5.3).
"""

from __future__ import annotations

import struct
from collections import namedtuple
from collections.abc import Callable
from functools import partial
from typing import Any, Generic, TypeVar

MAX32, MAX16 = 0xFFFFFFFF, 0xFFFF
HAS_DESCRIPTOR, UTF8 = 0x8, 0x800
"""Bits of `flags`: checksum and sizes follow the data; the name is UTF-8."""
ALIGNMENT = 64
"""PyTorch's: bytes, of which every member's data starts at a multiple."""
PADDING_TAG = 0x4246
"""`FB`: PyTorch's extra field, filled so that the data is aligned."""

Data = bytes | bytearray | memoryview
Fields = TypeVar("Fields", bound=tuple[Any, ...])


class Structure(Generic[Fields]):
    """A record that starts with four bytes of its own, and has numbers of fixed length after them.

    Args:
        mark: the four bytes.
        layout: of the numbers, as `struct` writes it.
        fields: the named tuple that they become.
    """

    def __init__(self, mark: bytes, layout: str, fields: type[Fields]) -> None:
        self.mark = mark
        self._struct = struct.Struct("<4s" + layout)
        self._make: Callable[[Any], Fields] = partial(tuple.__new__, fields)  # `fields._make`, without counting again
        self.size = self._struct.size

    def read(self, data: Data, at: int) -> Fields | None:
        """The record at a byte, or None if none stands there."""
        try:
            numbers = self._struct.unpack_from(data, at)
        except (struct.error, OverflowError):
            return None
        return self._make(numbers) if numbers[0] == self.mark and at >= 0 else None

    def write(self, *numbers: int) -> bytes:
        """The record with these numbers."""
        return self._struct.pack(self.mark, *numbers)


# The fields of each: after the mark, numbers.

Local = namedtuple("Local", "mark needs flags method time date crc32 stored size name_length extra_length")
"""What stands in front of a member's data (4.3.7); then come name and extra field."""

Entry = namedtuple(
    "Entry",
    "mark made_by needs flags method time date "
    "crc32 stored size name_length extra_length comment_length disk internal external header",
)
"""A member's entry in the central directory (4.3.12); then come name, extra field and comment."""

End = namedtuple("End", "mark disk first_disk entries_here entries size start comment_length")
"""Where the directory is, the last record of the file (4.3.16); then comes a comment."""

Locator64 = namedtuple("Locator64", "mark disk at disks")
"""Where the end record for large files is (4.3.15)."""

End64 = namedtuple("End64", "mark length made_by needs disk first_disk entries_here entries size start")
"""The end record for large files (4.3.14)."""

Descriptor = namedtuple("Descriptor", "mark crc32 stored size")
"""What may follow a member's data (4.3.9)."""

LOCAL = Structure(b"PK\3\4", "5H3L2H", Local)
ENTRY = Structure(b"PK\1\2", "6H3L5H2L", Entry)
END = Structure(b"PK\5\6", "4H2LH", End)
LOCATOR64 = Structure(b"PK\6\7", "LQL", Locator64)
END64 = Structure(b"PK\6\6", "Q2H2L4Q", End64)
DESCRIPTOR = Structure(b"PK\7\b", "3L", Descriptor)
DESCRIPTOR64 = Structure(b"PK\7\b", "L2Q", Descriptor)

END_WITHIN = 4096
"""Bytes from the file's end, in which the end record is looked for: PyTorch looks farther back only in large files."""


def find_last(data: Data, structure: Structure[Any]) -> int:
    """Where the last record of a kind starts near the file's end, or -1."""
    first = max(0, len(data) - END_WITHIN)
    at = bytes(data[first:]).rfind(structure.mark)
    return first + at if at >= 0 else -1


def read_sizes64(extra: bytes, size: int, stored: int, header: int) -> tuple[int, int, int] | None:
    """(size, stored size, place of the header), those past 4 GB taken from the extra field; None if it lacks them."""
    numbers = [size, stored, header]
    wanted = [i for i, number in enumerate(numbers) if number == MAX32]
    position = 0
    while wanted and position + 4 <= len(extra):
        tag, length = struct.unpack_from("<2H", extra, position)
        position += 4
        if tag == 1:
            if length < 8 * len(wanted) or position + 8 * len(wanted) > len(extra):
                return None
            for i, number in zip(wanted, struct.unpack_from(f"<{len(wanted)}Q", extra, position), strict=True):
                numbers[i] = number
            break
        position += length
    return numbers[0], numbers[1], numbers[2]


def write_sizes64(size: int, header: int) -> bytes:
    """The extra field for a member that is stored as it is; empty if all fits in 32 bits."""
    numbers = [size, size] if size >= MAX32 else []
    numbers += [header] if header >= MAX32 else []
    return struct.pack(f"<2H{len(numbers)}Q", 1, 8 * len(numbers), *numbers) if numbers else b""


def read_descriptor(data: Data, at: int, stored: int, size: int) -> tuple[int, int] | None:
    """(CRC-32, where the record ends) after the data of a member of these sizes; None if none stands there."""
    for kind in (DESCRIPTOR, DESCRIPTOR64):
        found = kind.read(data, at)
        if found is not None and (found.stored, found.size) == (stored, size):
            return found.crc32, at + kind.size
    return None
