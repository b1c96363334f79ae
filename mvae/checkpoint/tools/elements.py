"""The elements of a tensor as numbers that can be subtracted, whatever type they were saved as. Needs numpy.

numpy has no bfloat16 and no float8. The bits of a bfloat16 are the upper half of a float32, and those of a float8_e5m2
the upper half of a float16; the other float8 become a float32 by moving their bits and correcting the exponent.
Source of what their bits mean: `c10/util/Float8_*.h` of PyTorch.
"""

from __future__ import annotations

from typing import Any

import numpy

from mvae.checkpoint.pickled import dtypes

Array = numpy.ndarray[Any, Any]

_UPPER_HALF = {"bfloat16": ("<u2", "<u4", "<f4"), "float8_e5m2": ("u1", "<u2", "<f2")}
"""Types that are half of a longer one: as integers, that one as integers, and that one."""

_FLOAT8 = {
    "float8_e4m3fn": (3, 7, (0x7F, 0xFF)),
    "float8_e4m3fnuz": (3, 8, (0x80,)),
    "float8_e5m2fnuz": (2, 16, (0x80,)),
}
"""Bits of the mantissa, what is taken off the exponent, and the bytes that stand for nan; none stands for infinity."""


def has_numbers(dtype: str) -> bool:
    """True if the elements of a type can be compared as numbers; packed types cannot."""
    return dtype in {**dtypes.NUMPY, **_UPPER_HALF, **_FLOAT8, "float8_e8m0fnu": 0, "complex32": 0}


def numbers(raw: bytes | memoryview, dtype: str) -> Array:
    """Elements as float64, or complex128 if they are complex.

    Args:
        raw: the bytes, least significant first.
        dtype: one for which `has_numbers` is true.
    """
    if dtype in _UPPER_HALF:
        half, whole, real = _UPPER_HALF[dtype]
        part = numpy.frombuffer(raw, half)
        with numpy.errstate(invalid="ignore"):  # a nan may be one that signals
            return (part.astype(whole) << 8 * part.itemsize).view(real).astype(numpy.float64)
    if dtype == "float8_e8m0fnu":
        power = numpy.frombuffer(raw, numpy.uint8)
        return numpy.where(power == 0xFF, numpy.nan, 2.0 ** (power - 127.0))
    if dtype in _FLOAT8:
        return _float8(numpy.frombuffer(raw, numpy.uint8), *_FLOAT8[dtype])
    if dtype == "complex32":
        return numpy.frombuffer(raw, "<f2").astype(numpy.float64).view(numpy.complex128)
    values = numpy.frombuffer(raw, "<" + dtypes.NUMPY[dtype])
    return values.astype(numpy.complex128 if values.dtype.kind == "c" else numpy.float64)


def bits(raw: bytes | memoryview, dtype: str) -> Array:
    """Elements as unsigned integers, one row each, to be compared to the bit."""
    size = dtypes.ITEMSIZE[dtype]
    unit = min(size, 8)
    return numpy.frombuffer(raw, f"<u{unit}").reshape(-1, size // unit)


def _float8(byte: Array, mantissa: int, bias: int, nans: tuple[int, ...]) -> Array:
    as_float32 = ((byte & 0x7F).astype("<u4") << (23 - mantissa)).view("<f4")
    values = as_float32.astype(numpy.float64) * 2.0 ** (127 - bias)
    return numpy.where(numpy.isin(byte, nans), numpy.nan, numpy.where(byte & 0x80, -values, values))
