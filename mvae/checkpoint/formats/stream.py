"""The bytes of a file in blocks, and the elements of a tensor, so that memory stays flat however large the file is.

Looking at a checkpoint goes through a memory map; going through all of it does not: the pages of a map count as the
process's memory, and a disk that fails under a map kills the process where `read` raises an error.
"""

from __future__ import annotations

import mmap
import os
import re
import zlib
from array import array
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import BinaryIO

from mvae.checkpoint.files.source import STORED, Record, Source
from mvae.checkpoint.pickled import dtypes
from mvae.checkpoint.pickled.values import Storage, Tensor, contiguous
from mvae.errors import CheckpointError

BLOCK = 1 << 20
"""Bytes; a multiple of every element's size."""

Progress = Callable[[int], None]
"""Called with the number of bytes that were gone through since the last call."""

MAX_SPREAD = 4 << 30
"""Bytes that tensors may have beyond those in the file, by standing for one element many times (`expand`)."""

_SWAP_CODES = {2: "H", 4: "I", 8: "Q"}


class Stream:
    """Reads records, storages and tensors block by block; a `with` statement closes the files.

    A block is valid until the next one is asked for.

    Args:
        progress: told of every block that was read from a file.
    """

    def __init__(self, progress: Progress | None = None) -> None:
        self.progress = progress
        self._files: dict[int, tuple[Source, BinaryIO | None]] = {}
        self._buffer = memoryview(bytearray(BLOCK))
        self._spread = 0

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for _, file in self._files.values():
            if file is not None:
                file.close()

    def span(self, source: Source, offset: int, size: int, block: int = BLOCK) -> Iterator[memoryview]:
        """The bytes from `offset` on, `block` at a time.

        Raises:
            CheckpointError: the disk does not give them, or the file has become shorter.
        """
        file = self._file(source)
        for start in range(offset, offset + size, block):
            length = min(block, offset + size - start)
            yield source.data[start : start + length] if file is None else self._read(file, source, start, length)
            if self.progress is not None:
                self.progress(length)

    def _file(self, source: Source) -> BinaryIO | None:
        """The file behind a source, or None if it is in memory only."""
        if id(source) not in self._files:
            on_disk = isinstance(source.data.obj, mmap.mmap) and os.path.isfile(source.name)
            file = open(source.name, "rb", buffering=0) if on_disk else None  # noqa: SIM115  __exit__ closes it
            self._files[id(source)] = source, file
        return self._files[id(source)][1]

    def _read(self, file: BinaryIO, source: Source, start: int, length: int) -> memoryview:
        try:
            file.seek(start)
            done = 0
            while done < length:
                count = file.readinto(self._buffer[done:length])  # type: ignore[attr-defined]
                if not count:
                    raise CheckpointError(f"{source.name} was cut to {start + done:,} bytes while it was read.")
                done += count
        except OSError as error:
            raise CheckpointError(f"{source.name} cannot be read at byte {start:,}: {error}.") from None
        return self._buffer[:length]

    def content(self, record: Record) -> Iterator[memoryview]:
        """What a record holds, unpacked if it is compressed.

        Raises:
            CheckpointError: it cannot be read, or the compressed data is damaged.
        """
        if record.method == STORED:
            yield from self.span(record.source, record.offset, record.stored)
        else:
            yield from _cut(record.view(), BLOCK)

    def crc32(self, record: Record) -> int:
        """The checksum of what a record holds now.

        Raises:
            CheckpointError: as `content`.
        """
        found = 0
        for block in self.content(record):
            found = zlib.crc32(block, found)
        return found

    def storage(self, storage: Storage, dtype: str | None = None) -> Iterator[memoryview]:
        """The bytes of a storage, least significant byte first whichever way the file has them.

        Args:
            storage: whose bytes to read.
            dtype: of its elements, where the storage itself does not say.

        Raises:
            CheckpointError: they are not in the file, or cannot be read.
        """
        if storage.record is None:
            raise CheckpointError(f"the bytes of storage '{storage.key}' are not in the file.")
        return _little(self.content(storage.record), dtype or storage.dtype, storage.byteorder)

    def tensor(self, tensor: Tensor, elements: int | None = None) -> Iterator[memoryview]:
        """The elements of a tensor in order, as they would lie in a contiguous one, least significant byte first.

        Args:
            tensor: whose elements to read.
            elements: in a block, if it is not to be `BLOCK` bytes; at most that many bytes.

        Raises:
            CheckpointError: the tensor has no bytes in the file, or they cannot be read.
        """
        record = tensor.storage.record if tensor.storage else None
        if tensor.storage is None or record is None:
            raise CheckpointError(f"a tensor of kind '{tensor.kind}' has no values of its own in the file.")
        self._spread += max(0, tensor.nbytes - record.size)
        if self._spread > MAX_SPREAD:
            raise CheckpointError(f"a tensor of shape {list(tensor.shape)} on {record.size:,} bytes is not unfolded.")
        size = dtypes.ITEMSIZE[tensor.dtype]
        block = elements * size if elements is not None else BLOCK
        start = tensor.start
        if not is_contiguous(tensor):
            blocks = _strided(tensor, block // size)
        elif record.method == STORED:
            blocks = self.span(record.source, record.offset + start, tensor.nbytes, block)
        else:
            blocks = _cut(record.view()[start : start + tensor.nbytes], block)
        return _little(blocks, tensor.dtype, tensor.storage.byteorder)


def is_contiguous(tensor: Tensor) -> bool:
    """True if the elements lie in order without gaps."""
    if tensor.numel < 2:
        return True
    wanted = contiguous(tensor.shape)
    return all(length == 1 or a == b for length, a, b in zip(tensor.shape, tensor.stride, wanted, strict=True))


def _cut(data: memoryview, block: int) -> Iterator[memoryview]:
    for start in range(0, len(data), block):
        yield data[start : start + block]


def _strided(tensor: Tensor, step: int) -> Iterator[memoryview]:
    """The elements of a tensor with gaps or in another order, `step` at a time; numpy finds them."""
    values = tensor.stored_array()
    for start in range(0, values.size, step):
        yield memoryview(values.flat[start : start + step].tobytes())


def _little(blocks: Iterator[memoryview], dtype: str, byteorder: str) -> Iterator[memoryview]:
    unit = dtypes.ITEMSIZE[dtype] // (2 if dtype.startswith("complex") else 1)
    if byteorder == "little" or unit == 1:
        return blocks
    return (_swapped(block, _SWAP_CODES[unit]) for block in blocks)


def _swapped(block: memoryview, code: str) -> memoryview:
    values = array(code)
    values.frombytes(block)
    values.byteswap()
    return memoryview(values).cast("B")


# --- whole tensors: with their checksums, and those that several processes saved


def blocks(stream: Stream, tensor: Tensor) -> Iterator[memoryview]:
    """The elements as they would lie in a contiguous tensor, least significant byte first.

    Raises:
        CheckpointError: they are not in the file, or not those that its checksum was made of.
    """
    if tensor.kind == "sharded":
        return joined(tensor)
    record = tensor.storage.record if tensor.storage is not None else None
    whole = record is not None and record.size == tensor.nbytes and is_contiguous(tensor)
    if record is None or not record.crc32 or not whole or (tensor.storage and tensor.storage.byteorder == "big"):
        return stream.tensor(tensor)
    return _checked(stream.tensor(tensor), record.name, record.crc32)


def _checked(found: Iterator[memoryview], name: str, crc32: int) -> Iterator[memoryview]:
    crc = 0
    for block in found:
        crc = zlib.crc32(block, crc)
        yield block
    if crc != crc32:
        raise CheckpointError(f"'{name}' is damaged: its checksum is wrong. `mvae salvage` leaves it out.")


def joined(tensor: Tensor) -> Iterator[memoryview]:
    """A tensor of the kind `sharded`, put together from its pieces in memory.

    Raises:
        CheckpointError: the pieces do not make up the tensor.
    """
    import numpy

    pieces = [(_slices(span, tensor), part) for span, part in (tensor.parts or {}).items()]
    covered = sum(part.numel for _, part in pieces)
    if covered != tensor.numel or any(part.storage is None or part.nbytes > part.storage.nbytes for _, part in pieces):
        raise CheckpointError(f"a sharded tensor of {tensor.numel:,} elements has pieces with {covered:,}.")
    whole = numpy.zeros(tensor.shape, f"V{dtypes.ITEMSIZE[tensor.dtype]}")
    for where, part in pieces:
        values = part.stored_array()
        if values.shape != whole[where].shape or values.dtype.itemsize != whole.dtype.itemsize:
            raise CheckpointError("a sharded tensor has a piece of another shape or type.")
        whole[where] = values.view(whole.dtype)
    yield from _cut(whole.reshape(-1).view(numpy.uint8).data, BLOCK)


def _slices(span: str, tensor: Tensor) -> tuple[slice, ...]:
    """`[0:500, 0:64]` as an index.

    Raises:
        CheckpointError: it does not lie inside the tensor.
    """
    found = [slice(int(first), int(last)) for first, last in re.findall(r"(\d+):(\d+)", span)]
    if len(found) != len(tensor.shape) or any(s.stop > length for s, length in zip(found, tensor.shape, strict=True)):
        raise CheckpointError(f"a sharded tensor of shape {list(tensor.shape)} has a piece at {span[:80]}.")
    return tuple(found)
