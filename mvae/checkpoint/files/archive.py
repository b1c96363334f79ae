"""The checkpoint as a zip file: which members it has, where their bytes lie, and what each byte in between is.

PyTorch writes a plain zip, every member stored as it is, and pads the local header of each so that its data starts at a
multiple of 64 bytes. Python's `zipfile` reads it, but tells neither where the data starts nor what the padding is,
takes members that overlap, and finds other members than PyTorch does. So the directory is read here.

What PyTorch's own reader (`caffe2/serialize/inline_container.cc`, on miniz) finds is what is found here; where the two
could differ, the file is refused.
"""

from __future__ import annotations

import re
import struct
from operator import attrgetter

from mvae.checkpoint.files import zip_structures as zs
from mvae.checkpoint.files.source import DEFLATED, STORED, Record, Source
from mvae.errors import SALVAGE, CheckpointError, UnsupportedFileError

_ENCRYPTED, _IS_PATCH = 0x1 | 0x40 | 0x2000, 0x20
_IS_FOLDER = 0x10
_ODD = _ENCRYPTED | _IS_PATCH
MAX_MEMBERS = 1 << 19
_MAX_NAME = 512
_POINTS_OUTSIDE = re.compile(r"^/|^[^/\\]*:|\0|(^|[/\\])\.\.(\Z|[/\\])")
_EXTRA = struct.Struct("<2H")
_WHOLE_STORAGE = re.compile(rb"PK\x03\x04.{26}[^/\0]{1,400}/data/\w+.*?PK[\x03\x07]", re.DOTALL)
_LOOKED_THROUGH = 64 << 20
_MAX_SMALL = 1024
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
    padding: int
    end: int

    def __init__(self, source: Source, name: str, header: int, sizes: tuple[int, int], entry: zs.Entry) -> None:
        self.source = source  # all by hand: `super().__init__` would take a sixth of the time that a directory takes
        self.name = name
        self.size, self.stored = sizes
        # Where PyTorch writes no checksum, a zero stands: everywhere, or where `skip_data` left the weights out.
        self.crc32 = entry.crc32 if entry.crc32 or not self.size else None
        self.method = entry.method
        self.header = header
        self.flags = entry.flags


class Archive:
    """The members of a zip file, checked against each other and against the file.

    Attributes:
        source: the file.
        members: by full name, in the order of the directory.
        in_order: the same in the order of the file.
        root: the folder PyTorch put everything in, such as `archive` or the file's stem, with a trailing `/`.
        directory: (first byte, past the last byte) of the central directory.
        end: (first byte, past the last byte) of the records that end the file.
    """

    def __init__(self, source: Source) -> None:
        """Read the directory and every local header.

        Raises:
            CheckpointError: no zip directory, or one that contradicts itself or the file.
            UnsupportedFileError: it is encrypted, or a part of something.
        """
        self.source = source
        count, start, size, self.end = _read_end(source)
        self.directory = (start, start + size)
        self.members: dict[str, Member] = {}
        self._folded: dict[bytes, Member] = {}
        for member in _read_directory(source, count, start, size):
            first = self._folded.setdefault(_folded(member.name), member)
            if first is not member:
                raise self._twins(first, member)
            self.members[member.name] = member
        for number, member in enumerate(self.members.values(), start=1):
            _read_local_header(source, member, start)
            if number % _BATCH == 0:
                source.forget()
        self.in_order = sorted(self.members.values(), key=attrgetter("header"))
        self._refuse_overlaps()
        self.root = next(iter(self.members), "").partition("/")[0] + "/"

    def _twins(self, a: Member, b: Member) -> CheckpointError:
        same = "two members named" if a.name == b.name else f"the members '{a.name}' and"
        return CheckpointError(
            f"{self.source.name} has {same} '{b.name}'. PyTorch tells names apart without regard to case and "
            "would take one of the two: which, depends on their order. It writes no such file: do not load it."
        )

    def _refuse_overlaps(self) -> None:
        position, before = 0, ""
        for member in self.in_order:
            if member.header < position:
                raise CheckpointError(
                    f"{self.source.name}: the zip members '{before}' and '{member.name}' overlap. No program "
                    "writes such a file by accident: do not load it."
                )
            position, before = member.end, member.name

    def get(self, name: str) -> Member | None:
        """The member PyTorch would find under `name`, such as `data.pkl` or `data/0`, capital letters or not."""
        return self._folded.get(_folded(self.root + name))

    def small(self, name: str) -> bytes | None:
        """The content of a small member such as `byteorder`, or None if it is not there."""
        member = self.get(name)
        if member is None:
            return None
        if member.size > _MAX_SMALL:
            raise CheckpointError(f"'{member.name}' is {member.size:,} bytes; at most {_MAX_SMALL:,} were expected.")
        return bytes(member.view())


def _folded(name: str) -> bytes:
    """A name as PyTorch compares it: the letters A to Z made small, and no others."""
    return name.encode().lower()


def _read_end(source: Source) -> tuple[int, int, int, tuple[int, int]]:
    """(members, offset of the directory, its bytes, span of the end records)."""
    found, (first, past) = _find_end(source)
    if found.disk or found.first_disk or found.entries_here != found.entries:
        raise _several_parts(source)
    if found.start + found.size > first or found.entries * zs.ENTRY.size > found.size:
        raise CheckpointError(
            f"{source.name}: the zip's end says {found.entries:,} members in {found.size:,} bytes at {found.start:,}, "
            f"and the file has {source.size:,} bytes. It was cut, joined or changed after it was written."
        )
    if found.entries > MAX_MEMBERS:
        raise CheckpointError(f"{source.name} claims {found.entries:,} zip members; at most {MAX_MEMBERS:,} are read.")
    return found.entries, found.start, found.size, (first, past)


def _find_end(source: Source) -> tuple[zs.End | zs.End64, tuple[int, int]]:
    """The record that says where the directory is, and the span of all records that end the file."""
    position = zs.find_last(source.data, zs.END)
    end = zs.END.read(source.data, position)
    if end is None:
        raise CheckpointError(
            f"{source.name} starts as a zip file and its directory, which stands at the end, is missing: the "
            f"file is cut off after {source.size:,} bytes.{_what_is_left(source)}"
        )
    past = min(source.size, position + zs.END.size + end.comment_length)
    locator = zs.LOCATOR64.read(source.data, position - zs.LOCATOR64.size)
    if locator is None:
        return end, (position, past)
    end64 = zs.END64.read(source.data, locator.at)
    if locator.disk or locator.disks != 1:
        raise _several_parts(source)
    if end64 is None or end64.length < zs.END64.size - 12:
        raise CheckpointError(f"{source.name}: the zip's record for large files is not at {locator.at:,}, as it says.")
    return end64, (locator.at, past)


def _what_is_left(source: Source) -> str:
    """A sentence on what can be saved of a file that is cut off: PyTorch writes the pickle first, then the weights."""
    local = zs.LOCAL.read(source.data, 0)
    first = bytes(source.data[zs.LOCAL.size :][: local.name_length]) if local is not None else b""
    if not first.endswith(b"/data.pkl"):
        return f" It begins with {first[:60]!r}, as no checkpoint of PyTorch does."
    if _WHOLE_STORAGE.search(source.data[:_LOOKED_THROUGH]):
        return SALVAGE
    return " If a tensor is left whole, `mvae salvage` finds it."


def _several_parts(source: Source) -> UnsupportedFileError:
    return UnsupportedFileError(f"{source.name} is one part of a zip in several parts, which PyTorch does not read.")


def _read_directory(source: Source, count: int, start: int, length: int) -> list[Member]:
    members = []
    data = source.data
    position, end = start, start + length
    for number in range(count):
        entry = zs.ENTRY.read(data, position) if position + zs.ENTRY.size <= end else None
        if entry is None:
            raise CheckpointError(f"{source.name}: entry {number} of {count} in the zip's directory is damaged.")
        name_at = position + zs.ENTRY.size
        extra_at = name_at + entry.name_length
        position = extra_at + entry.extra_length + entry.comment_length
        if position > end:
            raise CheckpointError(f"{source.name}: entry {number} of {count} runs past the zip's directory.")
        name = _checked_name(bytes(data[name_at:extra_at]))
        size, stored, header = entry.size, entry.stored, entry.header
        if zs.MAX32 in (size, stored, header):
            sizes = zs.read_sizes64(bytes(data[extra_at : extra_at + entry.extra_length]), size, stored, header)
            if sizes is None:
                raise CheckpointError(f"'{name}': its sizes past 4 GB are missing from the directory.")
            size, stored, header = sizes
        is_odd = entry.flags & _ODD or entry.method or entry.disk or entry.external & _IS_FOLDER
        if is_odd or size != stored or name[-1:] == "/":
            _check_kind(name, entry, size, stored)
        members.append(Member(source, name, header, (size, stored), entry))
    return members


def _checked_name(raw: bytes) -> str:
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise CheckpointError(f"a zip member's name is not UTF-8: {raw[:60]!r}.") from None
    is_odd = ".." in name or ":" in name or "\\" in name or "\0" in name or name[:1] == "/"
    if is_odd and _POINTS_OUTSIDE.search(name):
        raise CheckpointError(
            f"a zip member is named {name[:60]!r}, which points outside the file. PyTorch never writes that: "
            "it is an attack on whoever unpacks it. Do not load it."
        )
    if len(raw) >= _MAX_NAME:
        raise CheckpointError(f"a zip member's name has {len(raw):,} bytes; PyTorch reads {_MAX_NAME - 1} of them.")
    return name


def _check_kind(name: str, entry: zs.Entry, size: int, stored: int) -> None:
    """Refuse a member that PyTorch cannot read, or not for what it is."""
    if entry.flags & _ENCRYPTED:
        raise UnsupportedFileError(f"'{name}' is encrypted, which PyTorch does not read. Decrypt the file first.")
    if entry.disk:
        raise UnsupportedFileError(f"'{name}' lies in part {entry.disk} of a zip in several parts; PyTorch reads one.")
    if entry.flags & _IS_PATCH:
        raise UnsupportedFileError(f"'{name}' is a patch for another file (flag 0x20), which PyTorch does not read.")
    if entry.method not in (STORED, DEFLATED):
        raise UnsupportedFileError(f"'{name}' is compressed with method {entry.method}; PyTorch reads 0 and 8.")
    if size and (entry.external & _IS_FOLDER or name[-1:] == "/"):
        raise CheckpointError(f"'{name}' is marked as a folder and has {size:,} bytes, which PyTorch would not read.")
    if entry.method == STORED and stored != size:
        raise CheckpointError(f"'{name}' is {size:,} bytes stored as {stored:,}.")


def _read_local_header(source: Source, member: Member, limit: int) -> None:
    """Find where the data starts; everything must end before `limit`, where the directory starts."""
    at = member.header
    local = zs.LOCAL.read(source.data, at) if at + zs.LOCAL.size <= limit else None
    if local is None:
        raise CheckpointError(f"'{member.name}' should start at byte {at:,} of {source.name} and does not.")
    name_at = at + zs.LOCAL.size
    if source.data[name_at : name_at + local.name_length] != member.name.encode():
        found = bytes(source.data[name_at : name_at + min(local.name_length, 60)])
        raise CheckpointError(f"the directory says '{member.name}' where the file itself says {found!r}.")
    member.offset = name_at + local.name_length + local.extra_length
    past = member.offset + member.stored
    if past > limit:
        raise CheckpointError(
            f"'{member.name}' claims {member.stored:,} bytes from byte {member.offset:,}; only "
            f"{max(0, limit - member.offset):,} are there. The file was cut or changed."
        )
    member.padding = _padding(source, name_at + local.name_length, local.extra_length)
    member.end = _past_descriptor(source, member, past, limit)


def _padding(source: Source, at: int, length: int) -> int:
    """Filler bytes in the extra field of a local header: in PyTorch's own field, after its four bytes."""
    position, end, filler = at, at + length, 0
    while position + 4 <= end:
        tag, size = _EXTRA.unpack_from(source.data, position)
        if tag == zs.PADDING_TAG:
            filler += min(size, end - position - 4)
        position += 4 + size
    return filler


def _past_descriptor(source: Source, member: Member, at: int, limit: int) -> int:
    """Where the record after the data ends, which repeats its CRC and sizes; `at` if there is none."""
    if not member.flags & zs.HAS_DESCRIPTOR:
        return at
    found = zs.read_descriptor(source.data, at, member.stored, member.size)
    if found is None and source.data[at : at + 4] != zs.DESCRIPTOR.mark:
        return at
    crc32, end = found or (None, 0)
    if (crc32 or None) != (member.crc32 or None) or end > limit:
        raise CheckpointError(f"'{member.name}': the record after its data contradicts the zip's directory.")
    return end
