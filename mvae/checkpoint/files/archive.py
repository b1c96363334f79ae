"""The checkpoint as a zip file: which members it has, where their bytes lie, and what each byte in between
is.

PyTorch writes a plain zip, every member stored as it is, and pads the local header of each so that its data
starts at a multiple of 64 bytes. Python's `zipfile` reads it, but tells neither where the data starts nor
what the padding is, and takes members that overlap; so the directory is read here, in the order of PKWARE's
APPNOTE.TXT, sections 4.3.7 (local header), 4.3.12 (central directory), 4.3.14 to 4.3.16 (its end) and 4.5.3
(sizes past 4 GB).
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from mvae.checkpoint.files.source import DEFLATED, STORED, Record, Source
from mvae.errors import SALVAGE, CheckpointError

_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_LOCATOR64 = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")

_MAX32, _MAX16 = 0xFFFFFFFF, 0xFFFF
_ENCRYPTED, _HAS_DESCRIPTOR = 0x1, 0x8
MAX_MEMBERS = 1 << 19
_BATCH = 64
"""Headers that are read before the memory they were mapped into is let go."""


class Member(Record):
    """A zip member.

    Attributes:
        header: offset of its local header.
        padding: bytes of filler in that header, there to align the data.
        end: offset just past its data and the data descriptor that follows it.
    """

    __slots__ = ("end", "flags", "header", "padding")

    def __init__(self, source: Source, name: str, header: int, sizes: tuple[int, int], entry: _Entry) -> None:
        super().__init__(source, name, 0, sizes[1], entry.crc32, sizes[0], entry.method)
        self.header = header
        self.flags = entry.flags
        self.padding = 0
        self.end = 0


class _Entry(NamedTuple):
    """One record of the central directory, as it is written."""

    signature: bytes
    made_by: int
    needs: int
    flags: int
    method: int
    time: int
    date: int
    crc32: int
    stored: int
    size: int
    name_length: int
    extra_length: int
    comment_length: int
    disk: int
    internal: int
    external: int
    header: int


class Archive:
    """The members of a zip file, checked against each other and against the file.

    Attributes:
        source: the file.
        members: by full name, in the order of the directory.
        root: the folder PyTorch put everything in, such as `archive` or the file's stem, with a trailing `/`.
        directory: (first byte, past the last byte) of the central directory.
        end: (first byte, past the last byte) of the records that end the file.
    """

    def __init__(self, source: Source) -> None:
        """Read the directory and every local header.

        Raises:
            CheckpointError: no zip directory, or one that contradicts itself or the file.
        """
        self.source = source
        count, start, size, self.end = _read_end(source)
        self.directory = (start, start + size)
        self.members: dict[str, Member] = {}
        for member in _read_directory(source, count, start, size):
            if member.name in self.members:
                raise CheckpointError(f"{source.name} has two members named '{member.name}'. PyTorch writes one.")
            self.members[member.name] = member
        for number, member in enumerate(self.members.values(), start=1):
            _read_local_header(source, member, start)
            if number % _BATCH == 0:
                source.forget()
        self._refuse_overlaps()
        self.root = next(iter(self.members), "").partition("/")[0] + "/"

    def _refuse_overlaps(self) -> None:
        position, before = 0, ""
        for member in sorted(self.members.values(), key=lambda member: member.header):
            if member.header < position:
                raise CheckpointError(
                    f"{self.source.name}: the zip members '{before}' and '{member.name}' overlap. No program "
                    "writes such a file by accident: do not load it."
                )
            position, before = member.end, member.name

    def get(self, name: str) -> Member | None:
        """The member PyTorch would find under `name`, such as `data.pkl` or `data/0`."""
        return self.members.get(self.root + name)

    def read_small(self, name: str, limit: int = 1024) -> bytes | None:
        """The content of a small member such as `byteorder`, or None if it is not there."""
        member = self.get(name)
        if member is None:
            return None
        if member.size > limit:
            raise CheckpointError(f"'{member.name}' is {member.size:,} bytes; at most {limit} were expected.")
        return bytes(member.view())

    @property
    def has_checksums(self) -> bool:
        """False if the file was saved with `compute_crc32=False`: every CRC-32 in it is then zero."""
        return any(member.crc32 for member in self.members.values())

    def byteorder(self) -> str:
        """`little` or `big`: the order of the bytes in every storage. Files older than PyTorch 2.1 do not
        say.
        """
        content = self.read_small("byteorder")
        if content is None:
            return "little"
        if content not in (b"little", b"big"):
            raise CheckpointError(f"the member 'byteorder' holds {content[:20]!r}; 'little' or 'big' was expected.")
        return content.decode()


def _read_end(source: Source) -> tuple[int, int, int, tuple[int, int]]:
    """(members, offset of the directory, its bytes, span of the end records)."""
    tail_start = max(0, source.size - _END.size - _MAX16)
    tail = bytes(source.data[tail_start:])
    at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) - at < _END.size:
        raise CheckpointError(
            f"{source.name} starts as a zip file and its directory, which stands at the end, is missing: the "
            f"file is cut off after {source.size:,} bytes.{SALVAGE}"
        )
    _, disk, _, _, count, size, start, comment = _END.unpack_from(tail, at)
    position = tail_start + at
    first, count, size, start = _read_end64(source, position, count, size, start)
    if disk not in (0, _MAX16):
        raise CheckpointError(f"{source.name} is one part of a zip in several parts; PyTorch does not write those.")
    if start + size > first or count * _CENTRAL.size > size:
        raise CheckpointError(
            f"{source.name}: the zip's end says {count:,} members in {size:,} bytes at {start:,}, and the "
            f"file has {source.size:,} bytes. It was cut, joined or changed after it was written."
        )
    if count > MAX_MEMBERS:
        raise CheckpointError(f"{source.name} claims {count:,} zip members; at most {MAX_MEMBERS:,} are read.")
    return count, start, size, (first, min(source.size, position + _END.size + comment))


def _read_end64(source: Source, position: int, count: int, size: int, start: int) -> tuple[int, int, int, int]:
    """The same from the records for large files, if they are there: (first byte of them, members, bytes,
    offset).
    """
    locator = position - _LOCATOR64.size
    if locator < 0 or source.data[locator : locator + 4] != b"PK\6\7":
        return position, count, size, start
    at = _LOCATOR64.unpack_from(source.data, locator)[2]
    if at + _END64.size > locator or source.data[at : at + 4] != b"PK\6\6":
        raise CheckpointError(f"{source.name}: the zip's record for large files is not where it should be ({at:,}).")
    fields = _END64.unpack_from(source.data, at)
    return at, fields[7], fields[8], fields[9]


def _read_directory(source: Source, count: int, start: int, size: int) -> list[Member]:
    members = []
    data = source.data
    position, end = start, start + size
    for number in range(count):
        if position + _CENTRAL.size > end or data[position : position + 4] != b"PK\1\2":
            raise CheckpointError(f"{source.name}: entry {number} of {count} in the zip's directory is damaged.")
        entry = _Entry._make(_CENTRAL.unpack_from(data, position))
        name_at = position + _CENTRAL.size
        extra_at = name_at + entry.name_length
        position = extra_at + entry.extra_length + entry.comment_length
        if position > end:
            raise CheckpointError(f"{source.name}: entry {number} of {count} runs past the zip's directory.")
        name = _checked_name(bytes(data[name_at:extra_at]))
        stored, full, header = entry.stored, entry.size, entry.header
        if _MAX32 in (stored, full, header):
            extra = bytes(data[extra_at : extra_at + entry.extra_length])
            full, stored, header = _sizes64(name, extra, full, stored, header)
        members.append(Member(source, name, header, (stored, full), entry))
    return members


def _checked_name(raw: bytes) -> str:
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise CheckpointError(f"a zip member's name is not UTF-8: {raw[:60]!r}.") from None
    parts = name.replace("\\", "/").split("/")
    if ".." in parts or name.startswith("/") or "\0" in name or ":" in parts[0]:
        raise CheckpointError(
            f"a zip member is named {name[:60]!r}, which points outside the file. PyTorch never writes that: "
            "it is an attack on whoever unpacks it. Do not load it."
        )
    return name


def _sizes64(name: str, extra: bytes, full: int, stored: int, header: int) -> tuple[int, int, int]:
    """(size, stored size, header offset) with those that did not fit in 32 bits taken from the extra
    field.
    """
    position = 0
    while position + 4 <= len(extra):
        tag, length = struct.unpack_from("<2H", extra, position)
        if tag == 1:
            numbers = iter(struct.unpack_from(f"<{length // 8}Q", extra.ljust(position + 4 + length), position + 4))
            try:
                full = next(numbers) if full == _MAX32 else full
                stored = next(numbers) if stored == _MAX32 else stored
                header = next(numbers) if header == _MAX32 else header
            except StopIteration:
                raise CheckpointError(f"'{name}': its sizes past 4 GB are missing from the directory.") from None
            break
        position += 4 + length
    return full, stored, header


def _read_local_header(source: Source, member: Member, limit: int) -> None:
    """Find where the data starts; everything must end before `limit`, where the directory starts."""
    if member.flags & _ENCRYPTED:
        raise CheckpointError(f"'{member.name}' is encrypted. PyTorch does not encrypt.")
    if member.method not in (STORED, DEFLATED):
        raise CheckpointError(f"'{member.name}' is compressed with method {member.method}; PyTorch stores as it is.")
    if member.method == STORED and member.stored != member.size:
        raise CheckpointError(f"'{member.name}' is {member.size:,} bytes stored as {member.stored:,}.")
    at = member.header
    if at + _LOCAL.size > limit or source.data[at : at + 4] != b"PK\3\4":
        raise CheckpointError(f"'{member.name}' should start at byte {at:,} of {source.name} and does not.")
    fields = _LOCAL.unpack_from(source.data, at)
    name_length, extra_length = fields[9], fields[10]
    name_at = at + _LOCAL.size
    if source.data[name_at : name_at + name_length] != member.name.encode():
        found = bytes(source.data[name_at : name_at + min(name_length, 60)])
        raise CheckpointError(f"the directory says '{member.name}' where the file itself says {found!r}.")
    member.offset = name_at + name_length + extra_length
    past = member.offset + member.stored
    if past > limit:
        raise CheckpointError(
            f"'{member.name}' claims {member.stored:,} bytes from byte {member.offset:,}; only "
            f"{max(0, limit - member.offset):,} are there. The file was cut or changed."
        )
    member.padding = _padding(source, name_at + name_length, extra_length)
    member.end = past + _descriptor_size(source, member, past, limit)


def _padding(source: Source, at: int, length: int) -> int:
    """Filler bytes in the extra field of a local header: PyTorch's own field, tagged `FB`, after its four
    bytes.
    """
    position, end, filler = at, at + length, 0
    while position + 4 <= end:
        tag, size = struct.unpack_from("<2H", source.data, position)
        if tag == 0x4246:
            filler += min(size, end - position - 4)
        position += 4 + size
    return filler


def _descriptor_size(source: Source, member: Member, at: int, limit: int) -> int:
    """Bytes of the record after the data that repeats its CRC and sizes: 16, or 24 past 4 GB, or none."""
    if not member.flags & _HAS_DESCRIPTOR or source.data[at : at + 4] != b"PK\7\b":
        return 0
    for layout in ("<4sL2L", "<4sL2Q"):
        if at + struct.calcsize(layout) > limit:
            break
        _, crc32, stored, size = struct.unpack_from(layout, source.data, at)
        if (stored, size) == (member.stored, member.size) and crc32 == member.crc32:
            return struct.calcsize(layout)
    raise CheckpointError(f"'{member.name}': the record after its data contradicts the zip's directory.")
