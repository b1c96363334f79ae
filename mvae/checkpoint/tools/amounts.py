"""By how much a tensor changed. Read in blocks, so that memory stays flat. The one module here that needs numpy.

Elements are compared as numbers that can be subtracted, whatever type they were saved as. numpy has no bfloat16 and no
float8. The bits of a bfloat16 are the upper half of a float32, and those of a float8_e5m2 the upper half of a float16;
the other float8 become a float32 by moving their bits and correcting the exponent. Source of what their bits mean:
`c10/util/Float8_*.h` of PyTorch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy

from mvae.checkpoint.formats.stream import BLOCK, Progress, Stream
from mvae.checkpoint.pickled import dtypes
from mvae.checkpoint.pickled.values import Tensor

Array = numpy.ndarray[Any, Any]

_UPPER_HALF = {"bfloat16": ("<u2", "<u4", "<f4"), "float8_e5m2": ("u1", "<u2", "<f2")}
"""Types that are half of a longer one: as integers, that one as integers, and that one."""

_FLOAT8 = {
    "float8_e4m3fn": (3, 7, (0x7F, 0xFF)),
    "float8_e4m3fnuz": (3, 8, (0x80,)),
    "float8_e5m2fnuz": (2, 16, (0x80,)),
}
"""Bits of the mantissa, what is taken off the exponent, and the bytes that stand for nan; none stands for infinity."""


@dataclass
class Amount:
    """The difference between two tensors of one shape.

    Attributes:
        elements: how many there are.
        changed: how many differ.
        max_abs: the largest |b − a|, over elements that are finite in both.
        relative: ‖b − a‖ / ‖a‖ over the same elements; infinite if a is all zeros.
        not_finite: elements that differ and are nan or infinite in one of the two.
        before, after: the values, if there is just one element.
    """

    elements: int
    changed: int = 0
    max_abs: float = 0.0
    relative: float = 0.0
    not_finite: int = 0
    before: Any = None
    after: Any = None


def measure(a: Tensor, b: Tensor, progress: Progress | None = None) -> Amount | None:
    """By how much two tensors differ; None if their shapes do, or if their elements are no numbers.

    Raises:
        CheckpointError: the bytes of one cannot be read.
    """
    if a.shape != b.shape or a.storage is None or b.storage is None:
        return None
    if not has_numbers(a.dtype) or not has_numbers(b.dtype):
        return None
    found, squares_a, squares_delta = Amount(a.numel), 0.0, 0.0
    with Stream(progress) as left, Stream(progress) as right:
        for x, y in zip(left.tensor(a, _ELEMENTS), right.tensor(b, _ELEMENTS), strict=True):
            of_a, of_delta = _add(found, x, a.dtype, y, b.dtype)
            squares_a, squares_delta = squares_a + of_a, squares_delta + of_delta
    if squares_delta:
        found.relative = math.sqrt(squares_delta / squares_a) if squares_a else math.inf
    if a.numel == 1:
        found.before, found.after = _number(a), _number(b)
    return found


_ELEMENTS = BLOCK // 16
"""In a block, of whatever type."""


def _add(found: Amount, raw_a: memoryview, dtype_a: str, raw_b: memoryview, dtype_b: str) -> tuple[float, float]:
    """Count one block in. Returns the sums of the squares of the first's elements and of the differences."""
    with numpy.errstate(all="ignore"):  # a subtraction may overflow to infinity, and says so in its result
        a, b = numbers(raw_a, dtype_a), numbers(raw_b, dtype_b)
        finite = numpy.isfinite(a) & numpy.isfinite(b)
        if dtype_a == dtype_b:
            differ = (bits(raw_a, dtype_a) != bits(raw_b, dtype_b)).any(axis=1)
        else:
            differ = (a != b) & ~(numpy.isnan(a) & numpy.isnan(b))
        a, b = a[finite], b[finite]
        delta = abs(b - a)
        squares = float((abs(a) ** 2).sum()), float((delta**2).sum())
    found.changed += int(differ.sum())
    found.not_finite += int((differ & ~finite).sum())
    found.max_abs = max(found.max_abs, float(delta.max(initial=0.0)))
    return squares


def _number(tensor: Tensor) -> Any:
    """The only element, as a plain number."""
    if tensor.dtype in dtypes.NUMPY or tensor.dtype == "bfloat16":
        return tensor.item()
    with Stream() as stream:
        return numbers(b"".join(stream.tensor(tensor)), tensor.dtype)[0].item()


# --- elements as numbers


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
        return _float8(*_FLOAT8[dtype])[numpy.frombuffer(raw, numpy.uint8)]
    if dtype == "complex32":
        return numpy.frombuffer(raw, "<f2").astype(numpy.float64).view(numpy.complex128)
    values = numpy.frombuffer(raw, "<" + dtypes.NUMPY[dtype])
    return values.astype(numpy.complex128 if values.dtype.kind == "c" else numpy.float64)


def bits(raw: bytes | memoryview, dtype: str) -> Array:
    """Elements as unsigned integers, one row each, to be compared to the bit."""
    size = dtypes.ITEMSIZE[dtype]
    unit = min(size, 8)
    return numpy.frombuffer(raw, f"<u{unit}").reshape(-1, size // unit)


def _float8(mantissa: int, bias: int, nans: tuple[int, ...]) -> Array:
    """What each byte is worth."""
    byte = numpy.arange(256)
    as_float32 = ((byte & 0x7F).astype("<u4") << (23 - mantissa)).view("<f4")
    values = as_float32.astype(numpy.float64) * 2.0 ** (127 - bias)
    return numpy.where(numpy.isin(byte, nans), numpy.nan, numpy.where(byte & 0x80, -values, values))
