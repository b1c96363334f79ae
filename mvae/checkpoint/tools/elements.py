"""The elements of a tensor as numbers that can be subtracted, whatever type they were saved as. Needs numpy.

numpy has no bfloat16 and no float8: of the first, the bits are the upper half of a float32; of the second there are
only 256, and a table says what each is worth. Source of the tables: `c10/util/Float8_*.h` of PyTorch.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy

from mvae.checkpoint.pickled import dtypes

Array = numpy.ndarray[Any, Any]

_FLOAT8 = {
    "float8_e4m3fn": (4, 3, 7), "float8_e4m3fnuz": (4, 3, 8),
    "float8_e5m2": (5, 2, 15), "float8_e5m2fnuz": (5, 2, 16),
}  # fmt: skip
"""Bits of the exponent, bits of the mantissa, and what is taken off the exponent."""


def has_numbers(dtype: str) -> bool:
    """True if the elements of a type can be compared as numbers; packed types cannot."""
    return dtype in dtypes.NUMPY or dtype in _FLOAT8 or dtype in ("bfloat16", "float8_e8m0fnu", "complex32")


def numbers(raw: bytes | memoryview, dtype: str) -> Array:
    """Elements as float64, or complex128 if they are complex.

    Args:
        raw: the bytes, least significant first.
        dtype: one for which `has_numbers` is true.
    """
    if dtype == "bfloat16":
        return (numpy.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4").astype(numpy.float64)
    if dtype in _FLOAT8 or dtype == "float8_e8m0fnu":
        return _table(dtype)[numpy.frombuffer(raw, numpy.uint8)]
    if dtype == "complex32":
        return numpy.frombuffer(raw, "<f2").astype(numpy.float64).view(numpy.complex128)
    values = numpy.frombuffer(raw, "<" + dtypes.NUMPY[dtype])
    return values.astype(numpy.complex128 if values.dtype.kind == "c" else numpy.float64)


def bits(raw: bytes | memoryview, dtype: str) -> Array:
    """Elements as unsigned integers, one row each, to be compared to the bit."""
    size = dtypes.ITEMSIZE[dtype]
    unit = min(size, 8)
    return numpy.frombuffer(raw, f"<u{unit}").reshape(-1, size // unit)


@cache
def _table(dtype: str) -> Array:
    if dtype == "float8_e8m0fnu":
        return numpy.array([2.0 ** (byte - 127) for byte in range(255)] + [math.nan])
    return numpy.array([_float8(byte, dtype) for byte in range(256)])


def _float8(byte: int, dtype: str) -> float:
    exponent_bits, mantissa_bits, bias = _FLOAT8[dtype]
    sign = -1.0 if byte & 0x80 else 1.0
    exponent = (byte >> mantissa_bits) & ((1 << exponent_bits) - 1)
    mantissa = byte & ((1 << mantissa_bits) - 1)
    if dtype.endswith("uz") and byte == 0x80:  # one zero, one nan, no infinity
        return math.nan
    if dtype == "float8_e4m3fn" and byte & 0x7F == 0x7F:
        return math.nan
    if dtype == "float8_e5m2" and exponent == 31:
        return sign * math.inf if mantissa == 0 else math.nan
    fraction = mantissa / (1 << mantissa_bits)
    if exponent == 0:
        return sign * fraction * 2.0 ** (1 - bias)
    return sign * (1 + fraction) * 2.0 ** (exponent - bias)
