"""The element types of PyTorch: their size, how numpy and `struct` read them, and the storage classes of each.

Source: `torch/storage.py`, `_dtype_to_storage_type_map` and `_new_dtypes`.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy

ITEMSIZE: dict[str, int] = {
    "float64": 8, "float32": 4, "float16": 2, "bfloat16": 2,
    "complex128": 16, "complex64": 8, "complex32": 4,
    "int64": 8, "int32": 4, "int16": 2, "int8": 1, "uint64": 8, "uint32": 4, "uint16": 2, "uint8": 1,
    "bool": 1,
    "float8_e4m3fn": 1, "float8_e4m3fnuz": 1, "float8_e5m2": 1, "float8_e5m2fnuz": 1, "float8_e8m0fnu": 1,
    "float4_e2m1fn_x2": 1,
    "qint32": 4, "qint8": 1, "quint8": 1, "quint4x2": 1, "quint2x4": 1,
    "bits16": 2, "bits8": 1, "bits4x2": 1, "bits2x4": 1, "bits1x8": 1,
    **{f"{sign}int{bits}": 1 for sign in ("", "u") for bits in range(1, 8)},
}  # fmt: skip
"""Bytes per element, by the name after `torch.`."""

PACKED = {"quint4x2": 2, "quint2x4": 4}
"""Elements in a byte, of the types that put several in one."""

_SIGN = {"bfloat16": 0x8000, "complex32": 0x80008000}
"""The bits that hold a sign, of types that numpy lacks."""

NUMPY: dict[str, str] = {
    "float64": "f8", "float32": "f4", "float16": "f2", "complex128": "c16", "complex64": "c8",
    "int64": "i8", "int32": "i4", "int16": "i2", "int8": "i1",
    "uint64": "u8", "uint32": "u4", "uint16": "u2", "uint8": "u1", "bool": "b1",
    "qint32": "i4", "qint8": "i1", "quint8": "u1",
}  # fmt: skip
"""The numpy type of the same bytes. A type that is missing has none: its raw bytes are shown as unsigned
integers.
"""

STORAGE: dict[str, str] = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "ComplexDoubleStorage": "complex128", "ComplexFloatStorage": "complex64",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8", "BoolStorage": "bool", "UntypedStorage": "uint8",
    "QInt8Storage": "qint8", "QInt32Storage": "qint32", "QUInt8Storage": "quint8",
    "QUInt4x2Storage": "quint4x2", "QUInt2x4Storage": "quint2x4",
}  # fmt: skip
"""The element type that a storage class in the file implies."""

_FORMAT = {
    "f8": "d", "f4": "f", "f2": "e", "i8": "q", "i4": "i", "i2": "h", "i1": "b",
    "u8": "Q", "u4": "I", "u2": "H", "u1": "B", "b1": "?", "c16": "2d", "c8": "2f",
}  # fmt: skip


def numpy_dtype(dtype: str, byteorder: str) -> str:
    """What to hand to `numpy.dtype` for elements of a torch type, for example `<f4`.

    bfloat16, complex32, the float8 types and packed types do not exist in numpy: they come as unsigned
    integers of the same size, the raw bits. `bfloat16` bits are the upper half of a float32.
    """
    code = NUMPY.get(dtype) or f"u{ITEMSIZE[dtype]}"
    return (">" if byteorder == "big" else "<") + code


def signed(values: numpy.ndarray[Any, Any], dtype: str, conj: bool, neg: bool) -> numpy.ndarray[Any, Any]:
    """The values that a tensor with PyTorch's conjugate or negative bit stands for, as a copy.

    Raises:
        TypeError: a type that PyTorch does not negate either.
    """
    import numpy

    if dtype in _SIGN:
        mask = _SIGN[dtype] if neg else 0
        if conj and dtype == "complex32":  # the imaginary part stands second
            mask ^= 0x8000 if values.dtype.byteorder == ">" else 0x80000000
        signed: numpy.ndarray[Any, Any] = values ^ numpy.array(mask, values.dtype)
        return signed
    if dtype not in NUMPY:
        raise TypeError(f"{dtype} is not negated")
    values = numpy.conj(values) if conj else values
    return numpy.negative(values) if neg else values


def scalar(dtype: str, raw: bytes | memoryview, byteorder: str) -> Any:
    """One element as a Python number; without numpy. `raw` is `ITEMSIZE[dtype]` bytes.

    Types that Python does not know come as the integer of their bits, except bfloat16 and complex32, which are widened.
    """
    order: Any = byteorder
    if dtype == "complex32":
        return complex(*struct.unpack((">" if byteorder == "big" else "<") + "2e", raw))
    if dtype == "bfloat16":
        bits = int.from_bytes(raw, order) << 16
        return struct.unpack("<f", bits.to_bytes(4, "little"))[0]
    code = NUMPY.get(dtype)
    if code is None:
        return int.from_bytes(raw, order)
    found = struct.unpack((">" if byteorder == "big" else "<") + _FORMAT[code], raw)
    return complex(*found) if len(found) == 2 else found[0]
