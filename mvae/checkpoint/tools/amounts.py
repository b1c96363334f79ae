"""By how much a tensor changed. Read in blocks, so that memory stays flat; needs numpy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from mvae.checkpoint.formats.stream import BLOCK, Progress, Stream
from mvae.checkpoint.pickled import dtypes
from mvae.checkpoint.pickled.values import Tensor


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
    from mvae.checkpoint.tools.elements import has_numbers

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
    import numpy

    from mvae.checkpoint.tools.elements import bits, numbers

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
    from mvae.checkpoint.tools.elements import numbers

    with Stream() as stream:
        return numbers(b"".join(stream.tensor(tensor)), tensor.dtype)[0].item()
