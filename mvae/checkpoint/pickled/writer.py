"""A plain tree as the pickle that `torch.save` would write for it, without torch.

The standard library's own pickler, the one in Python (`pickle._Pickler`), told three things: what becomes of a value
that is not plain (`mvae.checkpoint.pickled.plain`), which call makes a tensor, and how PyTorch refers to a storage.
Only what `torch.load(weights_only=True)` takes is written, under pickle protocol 2.
"""

from __future__ import annotations

import codecs
import io
import pickle
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple

from mvae.checkpoint.pickled import dtypes
from mvae.checkpoint.pickled.limits import collector_held_off
from mvae.checkpoint.pickled.plain import LONGEST_INT, ORDINARY, Plain, Replaced
from mvae.checkpoint.pickled.values import Global, Object, ObjectDict, Storage, Tensor
from mvae.errors import CheckpointError

_CLASSES = {dtype: name for name, dtype in reversed(dtypes.STORAGE.items()) if name != "UntypedStorage"}
_DEEPEST = 20_000
"""Calls inside calls. Four for a container in a container, of which the reader lets 500 pass."""


class _Name(Global):
    """The name of a function that makes something; `save_reduce` asks that it could be called."""

    __slots__ = ()

    def __call__(self) -> None:
        raise TypeError(f"{self} is a name to write, not a function to call.")


class _Call(NamedTuple):
    """A value that is written as `function(*args)`; then the entries of a dict, then its attributes."""

    function: Global
    args: tuple[Any, ...]
    entries: dict[Any, Any] | None = None
    state: Any = None


class _Bytes(NamedTuple):
    """A storage inside a call. `dtype` is given where no class of storage says it."""

    storage: Storage
    dtype: str | None = None


class Stored(NamedTuple):
    """A storage that the pickle refers to, under the key that it has there. `dtype` is what its bytes are read as."""

    key: str
    storage: Storage
    dtype: str


class Pickler(pickle._Pickler):
    """Writes one pickle.

    Args:
        keep: says which tensors and storages to write; the others vanish from dicts, and are None in lists.

    Attributes:
        storages: those referred to, by the identity of the storage, in order.
        replaced: what was not plain.
    """

    memo: dict[int, tuple[int, Any]]  # what the type checker is not told of the standard library's pickler
    write: Callable[[bytes], None]
    get: Callable[[int], bytes]
    memoize: Callable[[Any], None]
    save_reduce: Callable[..., None]
    save_pers: Callable[[Any], None]
    save_none: Callable[[None], None]
    save_long: Callable[[int], None]
    save_tuple: Callable[[tuple[Any, ...]], None]

    def __init__(self, keep: Callable[[Tensor | Storage], bool] = lambda _: True) -> None:
        self._out = io.BytesIO()
        super().__init__(self._out, protocol=2)
        self.storages: dict[int, Stored] = {}
        self.replaced: list[Replaced] = []
        self._plain = Plain(keep)
        self._open: set[int] = set()

    def dump(self, tree: Any) -> bytes:  # type: ignore[override]
        """The pickle of a tree.

        Raises:
            CheckpointError: it nests deeper than any tree that was read.
        """
        with collector_held_off(), _room_for_recursion():
            self.replaced = self._plain.go_through(tree)
            try:
                super().dump(tree)
            except RecursionError:
                raise CheckpointError("the values nest too deep to be written.") from None
        return self._out.getvalue()

    def save(self, value: Any, save_persistent_id: bool = True) -> None:
        """What stands for the value, by the method for its type."""
        if type(value) in _ATOMS:
            self.dispatch[type(value)](self, value)
            return
        plain = self._plain.of(value)
        known = self.memo.get(id(plain))
        if known is not None:
            self.write(self.get(known[0]))
        elif type(plain) in self.dispatch:
            self.dispatch[type(plain)](self, plain)
        else:
            super().save(plain)  # type: ignore[misc]

    # --- the methods for types that the standard library does not know, or would write as torch does not read them

    def _save_storage(self, value: Storage) -> None:
        self._save_bytes_of(_Bytes(value))

    def _save_bytes_of(self, value: _Bytes) -> None:
        """A persistent id: `("storage", class, key, "cpu", elements)`."""
        storage, dtype = value
        stored = self.storages.get(id(storage))
        if stored is None:
            stored = self.storages[id(storage)] = Stored(str(len(self.storages)), storage, dtype or storage.dtype)
        name = None if dtype else _CLASSES.get(storage.dtype)
        cls = _name("torch", name) if name else _name("torch.storage", "UntypedStorage")
        place = "meta" if storage.location == "meta" else "cpu"
        self.save_pers(("storage", cls, stored.key, place, storage.numel if name else storage.nbytes))

    def _save_name(self, value: Global) -> None:
        self.write(f"c{value.module}\n{value.name}\n".encode())
        self.memoize(value)

    def _save_call(self, value: _Call, made: Any = None) -> None:
        entries = None if value.entries is None else iter(value.entries.items())
        self.save_reduce(value.function, value.args, value.state, None, entries, obj=value if made is None else made)

    def _save_tensor(self, value: Tensor) -> None:
        self._save_call(_tensor(value), value)

    def _save_dict(self, value: ObjectDict) -> None:
        state = value.state if isinstance(value.state, dict) else None
        self._save_call(_Call(_name(value.cls.module, value.cls.name), (), value, state), value)

    def _save_object(self, value: Object) -> None:
        """A device or a layout: no other objects are left."""
        self._save_call(_Call(_name(value.cls.module, value.cls.name), value.args), value)

    def _save_int(self, value: int) -> None:
        if value.bit_length() < LONGEST_INT:
            self.save_long(value)
        else:
            self.save(hex(value))

    def _save_bytes(self, value: bytes) -> None:
        """As the standard library does, for the empty ones too, which it writes as a call that torch refuses."""
        self.save_reduce(codecs.encode, (value.decode("latin-1"), "latin1"), obj=value)

    def _save_tuple(self, value: tuple[Any, ...]) -> None:
        """One that holds itself would need an opcode that torch does not know: there it is None."""
        if id(value) in self._open:
            self.save_none(None)
            return
        self._open.add(id(value))
        self.save_tuple(value)
        self._open.discard(id(value))

    dispatch: ClassVar[dict[type, Callable[..., None]]] = pickle._Pickler.dispatch | {
        int: _save_int, bytes: _save_bytes, tuple: _save_tuple, Global: _save_name, _Name: _save_name,
        _Call: _save_call, Tensor: _save_tensor, ObjectDict: _save_dict, Object: _save_object,
        Storage: _save_storage, _Bytes: _save_bytes_of,
    }  # fmt: skip


_ATOMS = frozenset({type(None), bool, int, float})  # never referred to a second time


@lru_cache(maxsize=1000)
def _name(module: str, name: str) -> _Name:
    """Always the same object, so that a name is written once and then referred to."""
    return _Name(module, name)


@contextmanager
def _room_for_recursion() -> Iterator[None]:
    """Room for deep values: the standard library's pickler calls itself for what is inside.

    In Python 3.11 and later that takes memory from the heap, not from the stack, so more than the thousand calls that
    are allowed at first do no harm.
    """
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(max(before, _DEEPEST))
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


# --- tensors: the calls that `torch/_tensor.py`, `Tensor.__reduce_ex__`, writes


def _tensor(tensor: Tensor) -> _Call:
    if tensor.kind == "meta":
        about = (_name("torch", tensor.dtype), tensor.shape, tensor.stride, tensor.requires_grad)
        return _call("_rebuild_meta_tensor_no_storage", *about)
    if tensor.storage is None:
        return _compound(tensor)
    attributes = tensor.attributes if isinstance(tensor.attributes, dict) else {}
    if "scheme" in attributes and tensor.dtype.startswith(("qint", "quint")):
        return _quantised(tensor)
    bits = {name: True for name in ("conj", "neg") if attributes.get(name) is True}
    state = tensor.attributes if tensor.kind in ORDINARY and not bits else None
    if tensor.kind.endswith("Parameter") and tensor.kind in ORDINARY:
        args = (_view(tensor, False, bits), tensor.requires_grad, _no_hooks())
        return _call("_rebuild_parameter_with_state", *args, state) if state else _call("_rebuild_parameter", *args)
    made = _view(tensor, tensor.requires_grad, bits)
    if not state:
        return made
    return _Call(
        _name("torch._tensor", "_rebuild_from_type_v2"), (made.function, _name("torch", "Tensor"), made.args, state)
    )


def _call(function: str, *args: Any) -> _Call:
    return _Call(_name("torch._utils", function), args)


def _no_hooks() -> OrderedDict[Any, Any]:
    """Where a tensor's backward hooks once stood; each has its own, since PyTorch adds hooks to it."""
    return OrderedDict()


def _view(tensor: Tensor, requires_grad: bool, bits: dict[str, bool]) -> _Call:
    assert tensor.storage is not None
    typed = tensor.dtype == tensor.storage.dtype and tensor.dtype in _CLASSES
    storage = _Bytes(tensor.storage, None if typed else tensor.dtype)
    args = (storage, tensor.offset, tensor.shape, tensor.stride, requires_grad, _no_hooks())
    if not typed:
        return _call("_rebuild_tensor_v3", *args, _name("torch", tensor.dtype), *([bits] if bits else []))
    return _call("_rebuild_tensor_v2", *args, *([bits] if bits else []))


def _quantised(tensor: Tensor) -> _Call:
    assert tensor.storage is not None
    scheme = tensor.attributes
    rest = (scheme[name] for name in ("scale", "zero_point", "axis") if name in scheme)
    parameters = (scheme["scheme"], *(tensor.parts or {}).values(), *rest)
    args = (_Bytes(tensor.storage), tensor.offset, tensor.shape, tensor.stride, parameters, tensor.requires_grad)
    return _call("_rebuild_qtensor", *args, _no_hooks())


def _compound(tensor: Tensor) -> _Call:
    """A sparse or a nested tensor, by the tensors it is made of."""
    parts = tuple((tensor.parts or {}).values())
    if tensor.kind == "nested":
        return _call("_rebuild_nested_tensor", *parts)
    layout = _Call(_name("torch.serialization", "_get_layout"), (f"torch.{tensor.kind}",))
    return _call("_rebuild_sparse_tensor", layout, (*parts, tensor.shape))
