"""Reads and writes a safetensors file, without the library of that name and as strictly as it does.

Eight bytes with the length of a header; the header, a JSON object that names every tensor with its type, shape and
span; then the tensors, one after the other without a gap. Source: `safetensors/src/tensor.rs`.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from typing import Any, BinaryIO

from mvae.checkpoint.files.source import Record, Source
from mvae.checkpoint.formats.contents import Contents
from mvae.checkpoint.formats.stream import Stream, blocks
from mvae.checkpoint.pickled.dtypes import ITEMSIZE
from mvae.checkpoint.pickled.limits import collector_held_off
from mvae.checkpoint.pickled.values import Storage, Tensor, contiguous
from mvae.errors import SALVAGE, CheckpointError

CODES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "complex64": "C64",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "float8_e8m0fnu": "F8_E8M0",
    "float8_e4m3fnuz": "F8_E4M3FNUZ", "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8",
    "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip
"""The names that safetensors has for PyTorch's types."""

_TYPES = {code: dtype for dtype, code in CODES.items()}
_PACKED_BITS = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}
"""Bits of an element of the types that do not fill their bytes. PyTorch has none of them: their bytes are shown."""

_MAX_HEADER = 100_000_000
_MAX_SIZE = 2**64
_MAX_DEPTH = 127
_FIELDS = {"dtype", "shape", "data_offsets"}
_ODD_INTEGER = re.compile(r"-0|\d{20}")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


# --- reading


class _Doubled(dict[str, Any]):
    """A JSON object that has keys more than once, those in `twice`. The last of them counts; all are in `pairs`."""

    __slots__ = ("pairs", "twice")

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.pairs = pairs
        self.twice = {key for key, count in Counter(key for key, _ in pairs).items() if count > 1}


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    return found if len(found) == len(pairs) else _Doubled(pairs)


def _twice(value: dict[str, Any]) -> set[str]:
    return value.twice if isinstance(value, _Doubled) else set()


@collector_held_off()
def read_safetensors(source: Source, contents: Contents) -> Contents:
    """Read the header. A file that the safetensors library refuses is refused here, for the same reason.

    Two spellings that it lets pass are refused besides, because no program writes them: a list where a tensor's entry
    should be an object, and `{"F32": null}` for `"F32"`.

    Args:
        source: the file.
        contents: filled in. If there is an error, it has the tensors that lie in the file.

    Raises:
        CheckpointError: not what safetensors writes, damaged or cut off; the message says which.
    """
    start, header = _header(source)
    contents.records = [Record(source, "header", 0, start)]
    contents.metadata = _metadata(header.pop("__metadata__", None))
    if "__metadata__" in _twice(header):
        raise CheckpointError("the header has '__metadata__' twice.")
    for name, entry in header.pairs if isinstance(header, _Doubled) else ():
        if name != "__metadata__":
            _fields(name, entry)  # the library reads one that does not count, too
    contents.tree = {}
    left = source.size - start
    spans = []
    for name, entry in header.items():
        first, last, tensor = _tensor(source, name, entry, start)
        spans.append((first, last, name))
        if last <= left:
            contents.tree[name] = tensor
            contents.storages[name] = tensor.storage  # type: ignore[assignment]  # made with one
            contents.records.append(tensor.storage.record)  # type: ignore[union-attr, arg-type]
    _check_spans(spans, left)
    return contents


def _header(source: Source) -> tuple[int, dict[str, Any]]:
    """(offset of the first tensor, the header)."""
    length = int.from_bytes(source.data[:8], "little")
    if length > _MAX_HEADER:
        raise CheckpointError(f"the header claims {length:,} bytes; safetensors allows {_MAX_HEADER:,}.")
    if 8 + length > source.size:
        raise CheckpointError(
            f"{source.name} starts like safetensors; its header claims {length:,} bytes and {source.size - 8:,} are "
            "there: it is cut off, and no tensor is left."
        )
    try:
        text = str(source.data[8 : 8 + length], "utf-8")
        integer = _integer if _ODD_INTEGER.search(text) else None  # a function that is called for each is dear
        header = json.loads(
            text, object_pairs_hook=_object, parse_int=integer, parse_float=_float, parse_constant=_refuse
        )
        if _SURROGATE.search(text):
            json.dumps(header, ensure_ascii=False).encode()  # half of a character that is written as two
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{source.name} starts like safetensors and its header is not JSON in UTF-8 ({error})."
        ) from None
    if not isinstance(header, dict):
        raise CheckpointError(f"{source.name} starts like safetensors and its header is not an object.")
    return 8 + length, header


def _integer(text: str) -> int | float:
    return int(text) if text != "-0" and len(text) <= 20 else _float(text)


def _float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError("a number out of range")
    return number


def _refuse(text: str) -> None:
    raise ValueError(f"{text} is no JSON")


def _metadata(found: Any) -> dict[str, str]:
    if found is not None and not (isinstance(found, dict) and all(isinstance(text, str) for text in found.values())):
        raise CheckpointError("the header's '__metadata__' is not an object of texts, which is all that it may be.")
    return dict(found or {})


def _fields(name: str, entry: Any) -> tuple[str, list[int], list[int]]:
    """(type, shape, offsets) of an entry, each of its kind."""
    if not isinstance(entry, dict) or not entry.keys() >= _FIELDS or _twice(entry) & _FIELDS:
        raise _bad(name, "is not an object with one 'dtype', one 'shape' and one 'data_offsets'")
    code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(code, str) or (code not in _TYPES and code not in _PACKED_BITS):
        raise _bad(name, f"has the type {str(code)[:40]!r}, which safetensors does not have")
    if not _is_sizes(shape) or not _is_sizes(offsets) or len(offsets) != 2:
        raise _bad(name, "has something else than whole numbers from 0 on as its shape and offsets")
    if len(entry) > len(_FIELDS) and max(_depth(entry[field]) for field in entry.keys() - _FIELDS) > _MAX_DEPTH - 2:
        raise _bad(name, f"nests values deeper than {_MAX_DEPTH} levels")
    return code, shape, offsets


def _tensor(source: Source, name: str, entry: Any, start: int) -> tuple[int, int, Tensor]:
    """(first byte, past the last byte, the tensor), counted from the end of the header."""
    code, shape, (first, last) = _fields(name, entry)
    size = _nbytes(name, code, shape)
    if last - first != size:
        raise _bad(name, f"has shape {str(shape)[:80]} of {code}, which is {size:,} bytes, not {last - first:,}")
    return first, last, _made(Record(source, name, start + first, size), code, tuple(shape))


def _bad(name: str, what: str) -> CheckpointError:
    return CheckpointError(f"the header's entry for '{name[:80]}' {what}.")


def _is_sizes(value: Any) -> bool:
    if not isinstance(value, list):
        return False
    for number in value:  # noqa: SIM110  `all` of a generator takes twice as long, and this is called very often
        if type(number) is not int or not 0 <= number < _MAX_SIZE:
            return False
    return True


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level := [part for part in level if isinstance(part, (list, dict))]:
        depth += 1
        level = [inside for part in level for inside in (part.values() if isinstance(part, dict) else part)]
    return depth


def _nbytes(name: str, code: str, shape: list[int]) -> int:
    bits = 1
    for length in (*shape, _PACKED_BITS.get(code) or 8 * ITEMSIZE[_TYPES[code]]):
        bits *= length
        if bits >= _MAX_SIZE:
            raise _bad(name, f"has the shape {str(shape)[:80]}: more than there are bytes")
    if bits % 8:
        raise _bad(name, f"has shape {str(shape)[:80]} of {code}, which does not end with a whole byte")
    return bits // 8


def _made(record: Record, code: str, shape: tuple[int, ...]) -> Tensor:
    dtype, kind = _TYPES.get(code, "uint8"), "Tensor"
    if code in _PACKED_BITS:
        kind, shape = f"packed {code} {list(shape)}", (record.size,)
    storage = Storage(record.name, dtype, record.size // ITEMSIZE[dtype], "cpu", record)
    return Tensor(dtype, shape, contiguous(shape), 0, storage, kind=kind)


def _check_spans(spans: list[tuple[int, int, str]], left: int) -> None:
    """The tensors must follow each other without a gap, up to the end of the file."""
    position = 0
    for first, last, name in sorted(spans):
        if first != position:
            what = "bytes that belong to another" if first < position else "a hole in front of it"
            raise CheckpointError(f"'{name[:80]}' has {what}: it starts at {first:,}, and {position:,} was expected.")
        position = last
    if position > left:
        raise CheckpointError(
            f"the tensors take {position:,} bytes and {left:,} are there: the file is cut off or damaged.{SALVAGE}"
        )
    if position < left:
        raise CheckpointError(f"{left - position:,} bytes stand behind the last tensor. safetensors allows none.")


# --- writing


def write_safetensors(file: BinaryIO, tensors: dict[str, Tensor], metadata: dict[str, str], stream: Stream) -> int:
    """Write tensors, each with the bytes it had in the file it came from; returns the bytes written.

    The largest elements come first, so that all are aligned.

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
    if len(text) > _MAX_HEADER:
        raise CheckpointError(f"the header would take {len(text):,} bytes; safetensors allows {_MAX_HEADER:,}.")
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
