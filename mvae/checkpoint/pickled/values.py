"""What a checkpoint's pickle is read into: plain values, tensors, and inert placeholders for everything else.

None, bool, int, float, complex, str, bytes, list, tuple, dict, set and frozenset come as they are. The rest
is here. Nothing in this module imports or calls what a file names.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mvae.checkpoint.files.source import STORED, Record
from mvae.checkpoint.pickled import dtypes
from mvae.errors import CheckpointError

if TYPE_CHECKING:
    import numpy


MAX_DIMS = 64
"""Of a tensor of PyTorch, and of an array of numpy."""
MAX_INFLATED_FOR_ONE = 1 << 20
"""Bytes. A compressed storage larger than this is not unpacked for the sake of a single number."""


class Global:
    """A name the file asks to import, such as `torch._utils._rebuild_tensor_v2`. It is only ever a name here.

    Attributes:
        module, name: as the file spells them, with the old names of Python 2 brought up to date.
        written: module and name as they stand in the file.
        uses: what the file does with it: `called`, `made`, `built` (given a state), `filled` (given items);
            `result called` if what came of calling it is called in turn, `changed` if it is itself given something.
        builder: our own function for a call whose meaning is known; see `mvae.checkpoint.pickled.rebuild`.
    """

    __slots__ = ("_hash", "builder", "module", "name", "uses", "written")

    def __init__(self, module: str, name: str) -> None:
        self.module = module
        self.name = name
        self.builder: Callable[[Global, tuple[Any, ...]], Any] | None = None
        self.written = f"{module}.{name}"
        self.uses: set[str] = set()
        self._hash = hash((module, name))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Global) and (self.module, self.name) == (other.module, other.name)

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"

    def __repr__(self) -> str:
        return f"<{self}>"


@dataclass(slots=True, eq=False, repr=False)
class Object:
    """Stands where the file has an object of a class, or the result of a call: nothing was made or called.

    Attributes:
        cls: the class or function; a `Global`, or whatever the file put in its place.
        args: positional arguments of the call, or of `__new__`.
        kwargs: keyword arguments of `__new__`.
        state: what would have been given to `__setstate__`; usually the attributes, as a dict.
        items: what would have been appended to it, if it was filled like a list.
        entries: what would have been set in it, if it was filled like a dict.
    """

    cls: Any
    args: tuple[Any, ...] = ()
    kwargs: dict[Any, Any] | None = None
    state: Any = None
    items: list[Any] | None = None
    entries: dict[Any, Any] | None = None

    @property
    def attributes(self) -> dict[Any, Any]:
        """The object's attributes as far as the file shows them: its state, `__slots__` included; may be empty."""
        if isinstance(self.state, dict):
            return self.state
        if isinstance(self.state, tuple) and len(self.state) == 2:
            return {key: value for part in self.state if isinstance(part, dict) for key, value in part.items()}
        return {}

    def __getitem__(self, key: Any) -> Any:
        """An entry if it was filled like a dict, else an attribute."""
        return self.entries[key] if self.entries is not None and key in self.entries else self.attributes[key]

    def get(self, key: Any, default: Any = None) -> Any:
        """As `dict.get`, over entries and attributes."""
        try:
            return self[key]
        except KeyError:
            return default

    def parts(self) -> Iterator[tuple[str, Any]]:
        """What there is of it, by name: `args`, `kwargs`, `state`, `items`, `entries`."""
        for name in ("args", "kwargs", "state", "items", "entries"):
            value = getattr(self, name)
            if value is not None and value != ():
                yield name, value

    def __repr__(self) -> str:
        return f"<object of {self.cls}>"


class ObjectDict(dict[Any, Any]):
    """A dict of a known dict class, such as `collections.OrderedDict`. A plain dict to whoever reads it.

    Attributes:
        cls: the class named in the file.
        args: other arguments, such as the default factory of a `defaultdict`.
        state: attributes set on it, such as the `_metadata` of a module's `state_dict`, or None.
    """

    __slots__ = ("args", "cls", "state")

    def __init__(self, cls: Global, args: tuple[Any, ...] = ()) -> None:
        self.cls = cls
        self.args = args
        self.state: Any = None


@dataclass(slots=True, eq=False, repr=False)
class Storage:
    """A run of bytes that one or more tensors are views of.

    Attributes:
        key: its name in the file; the member `data/<key>` of the zip.
        dtype: element type that the storage's class implies, such as `float32`.
        numel: elements of that type.
        location: the device it was saved from, such as `cuda:0`.
        record: where its bytes lie; None for a storage on the meta device, or before the reader has found it.
        byteorder: `little` or `big`.
    """

    key: str
    dtype: str
    numel: int
    location: str
    record: Record | None = None
    byteorder: str = "little"

    @property
    def nbytes(self) -> int:
        """Bytes it holds, as the pickle says."""
        return self.numel * dtypes.ITEMSIZE[self.dtype]

    def view(self) -> memoryview:
        """Its bytes, without a copy.

        Raises:
            CheckpointError: they are not in the file.
        """
        if self.record is None:
            raise CheckpointError(f"the bytes of storage '{self.key}' are not in the file.")
        return self.record.view()

    def __repr__(self) -> str:
        return f"<storage {self.key}: {self.numel} × {self.dtype} from {self.location}>"


@dataclass(slots=True, eq=False, repr=False)
class Tensor:
    """A tensor as the file describes it. Its values stay in the file until `array()` or `item()` asks for them.

    Attributes:
        dtype: such as `float32`, without `torch.`.
        shape, stride: in elements. A sparse or nested tensor has no stride.
        offset: of the first element in its storage, in elements.
        storage: where the values are; None if it has none of its own (meta, sparse, nested).
        requires_grad: as saved.
        kind: `Tensor`, `Parameter`, `sparse_coo`, `meta`, or the name of a foreign subclass.
        attributes: Python attributes saved with it, or the parameters of a quantised one; may be None.
        parts: the tensors it is made of, by name, such as `indices` and `values`; may be None.
    """

    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    storage: Storage | None
    requires_grad: bool = False
    kind: str = "Tensor"
    attributes: Any = None
    parts: dict[str, Any] | None = None

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of its elements. An expanded view may hold fewer in the file."""
        return -(-self.numel // dtypes.PACKED.get(self.dtype, 1)) * dtypes.ITEMSIZE[self.dtype]

    @property
    def start(self) -> int:
        """Where its first element stands, in bytes from the start of its storage."""
        return self.offset // dtypes.PACKED.get(self.dtype, 1) * dtypes.ITEMSIZE[self.dtype]

    @property
    def file_offset(self) -> int | None:
        """Where its first element stands, in bytes from the start of the file; None if it has no bytes there."""
        record = self.storage.record if self.storage else None
        return record.offset + self.start if record is not None and record.method == STORED else None

    @property
    def signs(self) -> tuple[bool, bool]:
        """Whether PyTorch's conjugate and negative bits are set.

        The bytes stand for the conjugate then, or have the wrong sign.
        """
        found = self.attributes if isinstance(self.attributes, dict) else {}
        return found.get("conj") is True and self.dtype.startswith("complex"), found.get("neg") is True

    def item(self) -> Any:
        """The value of a tensor with one element, as a Python number; numpy is not needed.

        Raises:
            CheckpointError: it has more than one element, or its bytes are not in the file.
        """
        if self.numel != 1 or self.storage is None:
            raise CheckpointError(f"a tensor of shape {list(self.shape)} is not one number.")
        record = self.storage.record
        if record is not None and record.method != STORED and record.size > MAX_INFLATED_FOR_ONE:
            raise CheckpointError("this number stands in a large compressed storage: ask `array()` for it.")
        raw = self.storage.view()[self.start : self.start + dtypes.ITEMSIZE[self.dtype]]
        conj, neg = self.signs
        value = dtypes.scalar(self.dtype, raw, self.storage.byteorder)
        value = value.conjugate() if conj else value
        return -value if neg else value

    def array(self) -> numpy.ndarray[Any, Any]:
        """The values as a read-only numpy view of the file.

        It is a copy only if PyTorch saved the tensor with the conjugate or the negative bit, so that the sign changes.

        bfloat16, float8 and other types that numpy lacks come as unsigned integers, the raw bits; see
        `mvae.checkpoint.pickled.dtypes.numpy_dtype`. Types that put several elements in a byte come as their bytes, as
        `Tensor.int_repr()` of PyTorch gives them. A file from a big-endian machine gives a big-endian array.

        Raises:
            CheckpointError: its bytes are not in the file (meta, sparse: ask its `parts`).
        """
        import numpy

        values, (conj, neg) = self.stored_array(), self.signs
        if not conj and not neg:
            return values
        try:
            values = numpy.asarray(dtypes.signed(values, self.dtype, conj, neg))
        except TypeError:
            raise CheckpointError(f"a {self.dtype} tensor with the negative bit, which has no meaning.") from None
        values.flags.writeable = False
        return values

    def stored_array(self) -> numpy.ndarray[Any, Any]:
        """As `array`, with the signs that the bytes in the file have."""
        import numpy

        if self.storage is None:
            raise CheckpointError(f"a tensor of kind '{self.kind}' has no values of its own in the file.")
        if len(self.shape) > MAX_DIMS:
            raise CheckpointError(f"a tensor of {len(self.shape)} dimensions; numpy has at most {MAX_DIMS}.")
        flat = numpy.frombuffer(self.storage.view(), numpy.uint8)[self.start :]
        if self.dtype in dtypes.PACKED:
            if self.offset % dtypes.PACKED[self.dtype] or self.stride != contiguous(self.shape):
                raise CheckpointError(f"a view of a {self.dtype} tensor, whose elements share bytes.")
            return flat[: self.nbytes]
        size = dtypes.ITEMSIZE[self.dtype]
        dtype = numpy.dtype(dtypes.numpy_dtype(self.dtype, self.storage.byteorder))
        elements = flat[: len(flat) // size * size].view(dtype)
        strides = tuple(step * size for step in self.stride)
        return numpy.lib.stride_tricks.as_strided(elements, self.shape, strides, writeable=False)

    def __repr__(self) -> str:
        return f"<tensor {self.dtype} {list(self.shape)}>"


@dataclass(slots=True, repr=False)
class NumpyDtype:
    """A numpy type named in the file, such as `<f4`; `fields` is set for structured types, which are not decoded."""

    code: str
    fields: Any = None

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return f"<numpy dtype {self.code}>"


@dataclass(slots=True, repr=False)
class NumpyScalar:
    """A numpy number, such as a learning rate that is a `np.float32`; `value` is the plain number, or raw bytes."""

    dtype: NumpyDtype
    value: Any

    __hash__ = object.__hash__

    def __repr__(self) -> str:
        return f"<numpy {self.dtype.code} {self.value!r}>"


@dataclass(slots=True, eq=False, repr=False)
class NumpyArray:
    """A numpy array inside the pickle.

    Attributes:
        cls: `numpy.ndarray` or the subclass named in the file.
        dtype, shape: as saved; None until the file has said.
        fortran: True if the elements are in column order.
        data: the elements: bytes, a `Blob`, or a list for an array of objects.
    """

    cls: Any
    dtype: NumpyDtype | None = None
    shape: tuple[int, ...] = ()
    fortran: bool = False
    data: Any = b""

    @property
    def nbytes(self) -> int:
        """Bytes of its elements; for an array of objects, 0."""
        return len(self.data) if isinstance(self.data, (bytes, bytearray, Blob)) else 0

    def array(self) -> numpy.ndarray[Any, Any]:
        """The values as a read-only numpy array.

        Raises:
            CheckpointError: an array of objects or of a structured type, which cannot be shown without
                running code.
        """
        import numpy

        if self.dtype is None or self.dtype.fields is not None or isinstance(self.data, list):
            raise CheckpointError("an array of Python objects or of a structured type is not decoded.")
        raw = self.data.content() if isinstance(self.data, Blob) else self.data
        try:
            flat = numpy.frombuffer(raw, numpy.dtype(self.dtype.code))
            return flat.reshape(self.shape, order="F" if self.fortran else "C")
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"a numpy array in the file contradicts itself: {error}.") from None

    def __repr__(self) -> str:
        return f"<numpy array {self.dtype.code if self.dtype else '?'} {list(self.shape)}>"


@dataclass(slots=True, eq=False, repr=False)
class Blob:
    """A text or byte string too large to copy: it stays in the file until `content()` asks for it.

    Attributes:
        encoding: how text stands in the file, `utf-8` or `ascii`; None for bytes. A byte string written as
            text, as PyTorch's protocol 2 does, has `latin` set.
    """

    raw: memoryview
    encoding: str | None
    latin: bool = False

    def __len__(self) -> int:
        """Bytes it takes in the file."""
        return len(self.raw)

    def content(self) -> Any:
        """The str or the bytes it stands for."""
        if self.encoding is None:
            return bytes(self.raw)
        try:
            text = str(self.raw, self.encoding, "surrogatepass")
            return text.encode("latin-1") if self.latin else text
        except UnicodeError:
            raise CheckpointError("a long string in the file is not valid UTF-8.") from None

    def __repr__(self) -> str:
        return f"<{'bytes' if self.encoding is None or self.latin else 'text'}: {len(self):,} bytes in the file>"


def contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The stride of a tensor whose elements lie in order, in elements."""
    stride, step = [], 1
    for length in reversed(shape):
        stride.append(step)
        step *= max(length, 1)
    return tuple(reversed(stride))
