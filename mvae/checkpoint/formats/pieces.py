"""The elements of any tensor in order: one that lies in the file as a whole, or one that several processes saved."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator

from mvae.checkpoint.formats.stream import BLOCK, Stream, is_contiguous
from mvae.checkpoint.pickled import dtypes
from mvae.checkpoint.pickled.values import Tensor
from mvae.errors import CheckpointError


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
    data = whole.reshape(-1).view(numpy.uint8).data
    for start in range(0, len(data), BLOCK):
        yield data[start : start + BLOCK]


def _slices(span: str, tensor: Tensor) -> tuple[slice, ...]:
    """`[0:500, 0:64]` as an index.

    Raises:
        CheckpointError: it does not lie inside the tensor.
    """
    found = [slice(int(first), int(last)) for first, last in re.findall(r"(\d+):(\d+)", span)]
    if len(found) != len(tensor.shape) or any(s.stop > length for s, length in zip(found, tensor.shape, strict=True)):
        raise CheckpointError(f"a sharded tensor of shape {list(tensor.shape)} has a piece at {span[:80]}.")
    return tuple(found)
