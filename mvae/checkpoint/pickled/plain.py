"""Foreign objects as plain values, so that what is written loads anywhere, with `weights_only=True`.

A checkpoint may hold an OmegaConf dict, a `pathlib.Path`, a numpy number, a class of the project that made it. The
reader shows each as an inert placeholder; here each becomes the nearest plain value. Its class is lost, its content
is not.
"""

from __future__ import annotations

import json
from collections.abc import Hashable
from typing import Any

from mvae.checkpoint.files.source import Record, Source
from mvae.checkpoint.pickled import dtypes
from mvae.checkpoint.pickled.meaning import meaning
from mvae.checkpoint.pickled.values import (
    Blob,
    Global,
    NumpyArray,
    NumpyDtype,
    NumpyScalar,
    Object,
    Storage,
    Tensor,
    contiguous,
)
from mvae.errors import CheckpointError
from mvae.text import jsonable

_MAX_DEPTH, _MAX_VALUES = 100, 2_000_000
_ATOMS = (str, bytes, bool, int, float, complex, type(None))


def simpler(value: Any) -> Any:
    """One step towards a plain value: what is inside may need a step of its own.

    Raises:
        CheckpointError: an array whose elements have no plain form.
    """
    if isinstance(value, Object):
        return _object(value)
    if isinstance(value, Blob):
        return value.content()
    if isinstance(value, frozenset):
        return list(value)
    if isinstance(value, NumpyScalar):
        return value.value
    if isinstance(value, NumpyArray):
        return _array(value)
    if isinstance(value, NumpyDtype):
        return value.code
    if isinstance(value, Tensor):
        return value.attributes if value.parts is None else value.parts
    return str(value) if isinstance(value, Global) else repr(value)


def class_of(value: Any) -> str:
    """The name of what a placeholder stands for, for people."""
    if isinstance(value, (Object, NumpyArray)):
        return str(value.cls) if isinstance(value.cls, Global) else "the result of a call"
    if isinstance(value, Tensor):
        return value.kind
    if isinstance(value, NumpyScalar):
        return f"numpy {value.dtype.code}"
    return str(value) if isinstance(value, Global) else type(value).__name__


def hashable(value: Any, depth: int = 20) -> Hashable:
    """A key of a dict, or a member of a set, as a plain one; one nested deeper than anybody's becomes text."""
    if isinstance(value, _ATOMS):
        return value
    if isinstance(value, (tuple, frozenset)) and depth:
        return tuple(hashable(part, depth - 1) for part in value)
    found = simpler(value) if isinstance(value, (Object, Global, NumpyScalar)) else None
    return found if found is not None and isinstance(found, _ATOMS) else class_of(value)


def _object(value: Object) -> Any:
    """The content of an object: its entries, items, attributes or arguments, whichever it has."""
    known = meaning(value)
    if known is not value:
        return known
    attributes = value.attributes
    if value.entries is not None:
        return value.entries
    if value.items is not None:
        return value.items
    if attributes:
        return attributes
    inside = [part for _, part in value.parts()]
    if len(inside) == 1 and inside[0] is value.args:
        return value.args[0] if len(value.args) == 1 else list(value.args)  # an Enum's value, a deque's items
    return dict(value.parts()) or class_of(value)


def _array(value: NumpyArray) -> Any:
    """A numpy array of numbers as a tensor on the same bytes; one of text or objects as lists."""
    if isinstance(value.data, list):
        return value.data
    code = value.dtype.code.lstrip("<>|=") if value.dtype is not None else ""
    dtype = next((name for name, numpy in dtypes.NUMPY.items() if numpy == code), None)
    if dtype is not None and value.dtype is not None and value.dtype.fields is None:
        return _as_tensor(value, dtype, "big" if value.dtype.code.startswith(">") else "little")
    if code[:1] in ("U", "S"):
        return value.array().tolist()
    raise CheckpointError(f"a numpy array of type '{code}' has no plain form.")


def _as_tensor(value: NumpyArray, dtype: str, byteorder: str) -> Tensor:
    data = value.data.content() if isinstance(value.data, Blob) else value.data
    shape = tuple(reversed(value.shape)) if value.fortran else value.shape
    stride = contiguous(shape)
    tensor = Tensor(dtype, value.shape, tuple(reversed(stride)) if value.fortran else stride, 0, None)
    if not isinstance(data, (bytes, bytearray)) or len(data) != tensor.nbytes:
        raise CheckpointError("a numpy array in the file contradicts itself.")
    tensor.storage = Storage("numpy", dtype, tensor.numel, "cpu")
    tensor.storage.byteorder = byteorder
    tensor.storage.record = Record(Source("numpy", memoryview(data)), "numpy", 0, len(data))
    return tensor


def to_json(value: Any) -> str:
    """A tree as JSON. What JSON has no word for comes as the nearest thing: sets as lists, tensors as a description.

    Raises:
        CheckpointError: it is deeper, or larger, than any settings are.
    """
    return json.dumps(_Jsonable().convert(value, _MAX_DEPTH), ensure_ascii=False)


class _Jsonable:
    """Makes a tree of what JSON knows, and stops if that does not end."""

    def __init__(self) -> None:
        self.left = _MAX_VALUES

    def convert(self, value: Any, depth: int) -> Any:
        self.left -= 1
        if self.left < 0 or depth < 0:
            raise CheckpointError("it is too deep or too large to be written as JSON.")
        if isinstance(value, (str, bool, int, float, type(None))):
            return value
        if isinstance(value, dict):
            return {_key(key): self.convert(part, depth - 1) for key, part in value.items()}
        if isinstance(value, (list, tuple, set, frozenset)):
            return [self.convert(part, depth - 1) for part in value]
        if isinstance(value, (bytes, bytearray)):
            return value.decode("latin-1")
        if isinstance(value, (Tensor, complex)):
            return str(value)
        return self.convert(simpler(value), depth - 1)


def _key(value: Any) -> str:
    plain = hashable(value)
    return plain if isinstance(plain, str) else str(plain)


def shown(value: Any) -> str:
    """A value in a line, for a list of what was changed."""
    text = str(jsonable(value, 3))
    return text if len(text) <= 60 else text[:59] + "…"
