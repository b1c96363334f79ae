"""The tensors of a checkpoint under their names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mvae.checkpoint.pickled.dtypes import ITEMSIZE, PACKED
from mvae.checkpoint.pickled.values import Tensor
from mvae.checkpoint.pickled.walk import Path


@dataclass(slots=True, eq=False, repr=False)
class TensorEntry:
    """A tensor and its place in the checkpoint.

    Attributes:
        name: its path with dots, such as `optimizer_states.0.state.3.exp_avg`; unique in the file.
        path: the keys and positions that lead to it.
        tensor: what the file says about it.
    """

    name: str
    path: Path
    tensor: Tensor

    def to_dict(self) -> dict[str, Any]:
        """name, dtype, shape, stride, bytes, offset, storage, crc32, as JSON takes them.

        `bytes` is numel × bytes per element; `offset` is where its first element stands in the file, in bytes; `crc32`
        belongs to the whole storage. The last three are null for a tensor without bytes in the file.
        """
        tensor = self.tensor
        record = tensor.storage.record if tensor.storage else None
        return {
            "name": self.name,
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "stride": list(tensor.stride),
            "bytes": tensor.nbytes,
            "offset": tensor.file_offset,
            "storage": tensor.storage.key if tensor.storage else None,
            "crc32": record.crc32 if record else None,
        }

    def __repr__(self) -> str:
        return f"<{self.name}: {self.tensor.dtype} {list(self.tensor.shape)}>"


def byte_span(tensor: Tensor) -> tuple[int, int]:
    """From the first byte of a tensor in its storage to past the last."""
    if 0 in tensor.shape:
        return 0, 0
    last = tensor.offset
    for length, step in zip(tensor.shape, tensor.stride, strict=False):
        last += (length - 1) * step
    size, packed = ITEMSIZE[tensor.dtype], PACKED.get(tensor.dtype, 1)
    return tensor.offset // packed * size, (last // packed + 1) * size
