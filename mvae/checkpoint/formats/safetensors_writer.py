"""Writes a safetensors file without the library of that name.

Eight bytes with the length of a header; the header, a JSON object that names every tensor with its type, shape and
span; then the tensors, one after the other without a gap, largest elements first so that each is aligned.
"""

from __future__ import annotations

import json
from typing import BinaryIO

from mvae.checkpoint.formats.pieces import blocks
from mvae.checkpoint.formats.stream import Stream
from mvae.checkpoint.pickled.dtypes import ITEMSIZE
from mvae.checkpoint.pickled.values import Tensor
from mvae.errors import CheckpointError

CODES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "complex64": "C64",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "float8_e8m0fnu": "F8_E8M0",
    "float8_e4m3fnuz": "F8_E4M3FNUZ", "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8",
    "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip
"""The names that safetensors has for PyTorch's types."""

MAX_HEADER = 100_000_000
"""Bytes of a header that the library reads."""


def write_safetensors(file: BinaryIO, tensors: dict[str, Tensor], metadata: dict[str, str], stream: Stream) -> int:
    """Write tensors, each with the bytes it had in the file it came from; returns the bytes written.

    Raises:
        CheckpointError: a tensor that the format cannot hold, or whose bytes are damaged or not there.
    """
    ordered = sorted(tensors, key=lambda name: -ITEMSIZE[tensors[name].dtype])
    header: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    end = 0
    for name in ordered:
        start, end = end, end + tensors[name].nbytes
        header[name] = {"dtype": _code(name, tensors[name]), "shape": tensors[name].shape, "data_offsets": [start, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER:
        raise CheckpointError(f"the header would take {len(text):,} bytes; safetensors allows {MAX_HEADER:,}.")
    file.write(len(text).to_bytes(8, "little") + text)
    for name in ordered:
        for block in blocks(stream, tensors[name]):
            file.write(block)
    return 8 + len(text) + end


def _code(name: str, tensor: Tensor) -> str:
    attributes = tensor.attributes if isinstance(tensor.attributes, dict) else {}
    bits = [bit for bit in ("conj", "neg") if attributes.get(bit)]
    plain = tensor.kind == "sharded" or (tensor.storage is not None and tensor.storage.location != "meta")
    if not plain or bits or tensor.dtype not in CODES:
        kind = " ".join([*bits, tensor.dtype, *([tensor.kind] if tensor.kind not in ("Tensor", "Parameter") else [])])
        raise CheckpointError(f"'{name}' is a tensor of {kind}, which safetensors cannot hold; a .ckpt can.")
    return CODES[tensor.dtype]
