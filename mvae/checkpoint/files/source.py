"""A file as one read-only buffer, and named pieces of it. Nothing is copied and nothing is written."""

from __future__ import annotations

import mmap
import os
import stat
import zlib
from dataclasses import dataclass
from typing import TypeAlias

from mvae.errors import CheckpointError, CheckpointNotFoundError

Input: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview"

STORED, DEFLATED = 0, 8
"""The two zip compression methods PyTorch reads. It writes only the first."""

MAX_INFLATED = 256 << 20
"""Bytes. A compressed piece that claims more than this is not unpacked: it may be a bomb."""


class Source:
    """The bytes of one file.

    Attributes:
        name: the path as given, or a word for bytes that came without one.
        size: bytes.
        data: the whole file, memory-mapped; a slice of it is a view, and only the pages touched are read.
    """

    __slots__ = ("data", "name", "size")

    def __init__(self, name: str, data: memoryview) -> None:
        self.name = name
        self.size = len(data)
        self.data = data

    @classmethod
    def open(cls, what: Input) -> Source:
        """Map a file, or wrap bytes already in memory.

        Raises:
            CheckpointError: it is not there, may not be read, is not a plain file, or is empty.
        """
        if isinstance(what, (bytes, bytearray, memoryview)):
            return cls("bytes in memory", memoryview(what).toreadonly().cast("B"))
        name = os.fspath(what)
        try:
            if not stat.S_ISREG(os.stat(name).st_mode):
                raise CheckpointError(f"{name} is not a plain file. Give a checkpoint file.")
            with open(name, "rb") as file:
                if os.fstat(file.fileno()).st_size == 0:
                    raise CheckpointError(f"{name} is empty: nothing was written to it, or its disk was full.")
                return cls(name, memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
        except FileNotFoundError:
            raise CheckpointNotFoundError(f"{name} does not exist.") from None
        except (OSError, ValueError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(f"{name} cannot be read: {error}.") from None

    def forget(self) -> None:
        """Let go of the pages that were looked at: they count as this process's memory. Looking again brings them back.

        The kernel maps 64 kB around each byte that is touched, so a thousand headers far apart would take 64 MB.
        """
        if isinstance(self.data.obj, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            self.data.obj.madvise(mmap.MADV_DONTNEED)


@dataclass(slots=True, eq=False, repr=False)
class Record:
    """A named piece of a file: a zip member, or a run of raw bytes in the formats that have no zip.

    Attributes:
        name: as the file names it.
        offset: of the first byte of its content, in bytes from the start of the file.
        size: bytes of content once unpacked.
        stored: bytes it takes in the file; equal to `size` unless `method` is `DEFLATED`, and if it is not given.
        crc32: the checksum written beside it, or None in a format that has none.
        method: `STORED` or `DEFLATED`.
        source: the file it lies in.
    """

    source: Source
    name: str
    offset: int
    size: int
    crc32: int | None = None
    stored: int = -1
    method: int = STORED

    def __post_init__(self) -> None:
        if self.stored < 0:
            self.stored = self.size

    def __repr__(self) -> str:
        return f"Record({self.name!r}, offset={self.offset}, size={self.size})"

    def view(self) -> memoryview:
        """The content: a view of the file, or a new buffer if it is compressed.

        Raises:
            CheckpointError: compressed data that is damaged, or claims more than `MAX_INFLATED` bytes.
        """
        raw = self.source.data[self.offset : self.offset + self.stored]
        return raw if self.method == STORED else self._inflate(raw)

    def _inflate(self, raw: memoryview) -> memoryview:
        if self.size > MAX_INFLATED:
            raise CheckpointError(
                f"'{self.name}' is compressed and claims {self.size:,} bytes; at most {MAX_INFLATED:,} are "
                "unpacked. PyTorch does not compress: repack the file without compression if you trust it."
            )
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            content = inflater.decompress(raw, self.size + 1)
        except zlib.error as error:
            raise CheckpointError(f"'{self.name}' is compressed and damaged: {error}.") from None
        if len(content) != self.size:
            found = "more" if len(content) > self.size else f"{len(content):,}"
            raise CheckpointError(f"'{self.name}' claims {self.size:,} bytes and unpacks to {found}.")
        return memoryview(content)
