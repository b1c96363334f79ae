"""A plain tree as the pickle that `torch.save` would write for it, without torch.

Only what `torch.load(weights_only=True)` takes is written: plain values, dicts and lists, tensors. Everything else is
replaced by something plain (`mvae.checkpoint.pickled.plain`) and remembered in `Pickler.replaced`. The opcodes are
those of pickle protocol 2, described in CPython's `Lib/pickletools.py`; values wait in a list of things to do, so
that no depth of nesting is too much.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

from mvae.checkpoint.pickled import dtypes
from mvae.checkpoint.pickled.limits import collector_held_off
from mvae.checkpoint.pickled.plain import class_of, hashable, shown, simpler
from mvae.checkpoint.pickled.values import (
    Blob,
    Global,
    NumpyArray,
    NumpyDtype,
    NumpyScalar,
    Object,
    ObjectDict,
    Storage,
    Tensor,
)
from mvae.checkpoint.pickled.walk import Path
from mvae.errors import CheckpointError
from mvae.text import printable

_CLASSES = {dtype: name for name, dtype in reversed(dtypes.STORAGE.items()) if name != "UntypedStorage"}
_Place: TypeAlias = "tuple[_Place, Any] | None"
"""Where a value is: the place of its container, and the step from there. A million may hang on one place."""

_Action: TypeAlias = Callable[[_Place, Any], None]

MAX_BYTES = 1 << 30
MAX_REPLACED = 1000
"""Replacements that are remembered. Of more, only that there were more."""
_SHORT = 200  # letters
_MAX_STEPS = 100


class Replaced(NamedTuple):
    """A value that was not plain. What was inside it may have been replaced too.

    Attributes:
        path: where it is.
        was: the name of its class.
        by: what stands there now; None if it was left out.
    """

    path: Path
    was: str
    by: Any

    def to_dict(self) -> dict[str, Any]:
        """name, was, by, as JSON takes them."""
        by = None if self.by is None else shown(self.by)
        return {"name": ".".join(map(str, self.path)), "was": self.was, "by": by}

    def __str__(self) -> str:
        name = printable(".".join(map(str, self.path)) or "the whole file", 120)
        by = "left out" if self.by is None else f"now {printable(shown(self.by))}"
        return f"{name} was {printable(self.was, 80)}, {by}"


class Stored(NamedTuple):
    """A storage that the pickle refers to, under the key that it has there. `dtype` is what its bytes are read as."""

    key: str
    storage: Storage
    dtype: str


class Pickler:
    """Writes one pickle.

    Args:
        keep: says which tensors and storages to write; the others vanish from dicts, and are None in lists.

    Attributes:
        storages: those referred to, by the identity of the storage, in order.
        replaced: what was not plain.
    """

    def __init__(self, keep: Callable[[Tensor | Storage], bool] = lambda _: True) -> None:
        self.keep = keep
        self.storages: dict[int, Stored] = {}
        self.replaced: list[Replaced] = []
        self._out = bytearray()
        self._memo: dict[int | str | tuple[str, str], int] = {}
        self._alive: list[Any] = []  # what the memo knows by its id must not be freed
        self._open: set[int] = set()
        self._plain: dict[int, Any] = {}
        self._noted: dict[int, _Place] = {}
        self._todo: list[tuple[_Action, _Place, Any]] = []

    def dump(self, tree: Any) -> bytes:
        """The pickle of a tree.

        Raises:
            CheckpointError: a value that pickle protocol 2 cannot hold.
        """
        self._out += b"\x80\x02"
        self._later(None, [tree])
        with collector_held_off():
            while self._todo:
                action, place, value = self._todo.pop()
                action(place, value)
                if len(self._out) > MAX_BYTES:
                    raise CheckpointError(f"the values take more than {MAX_BYTES >> 20:,} MB without the tensors.")
        return bytes(self._out + b".")

    # --- what the rest is made of

    def _later(self, place: _Place, values: list[Any], close: bytes = b"") -> None:
        """Save values, then write `close`; before anything that is waiting already."""
        if close:
            self._todo.append((self._emit, place, close))
        self._todo.extend((self._save, place, value) for value in reversed(values))

    def _emit(self, _: _Place, raw: bytes) -> None:
        self._out += raw

    def _remember(self, value: Any) -> None:
        """Number the value on top of the stack, so that it can be referred to."""
        self._alive.append(value)
        self._number(_key(value))

    def _number(self, key: int | str | tuple[str, str]) -> None:
        number = self._memo[key] = len(self._memo)
        self._out += b"q" + bytes([number]) if number < 256 else b"r" + struct.pack("<I", number)

    def _recall(self, number: int) -> None:
        self._out += b"h" + bytes([number]) if number < 256 else b"j" + struct.pack("<I", number)

    def _save(self, place: _Place, value: Any) -> None:
        writer = _WRITERS.get(type(value))
        if isinstance(value, str):
            self._text(value)
        elif writer is not None and not isinstance(value, _REMEMBERED):
            writer(self, place, value)
        elif id(value) in self._memo:
            self._recall(self._memo[id(value)])
        elif id(value) in self._open:
            self._replace(place, value, None)  # a tuple that holds itself, which no checkpoint needs
        elif writer is not None:
            writer(self, place, value)
        elif _is_known(value):
            self._name(value.module, value.name)
        else:
            self._foreign(place, value)

    def _foreign(self, place: _Place, value: Any) -> None:
        if isinstance(value, Object) and value.cls == Global("torch", "device") and _are_names(value.args):
            self._name("torch", "device")
            self._later(place, [value.args], b"R")
            return
        if id(value) not in self._plain:  # the same object again is the same plain value again
            self._plain[id(value)] = _simplest(value)
            self._alive.append(value)
        self._replace(place, value, self._plain[id(value)])

    def _replace(self, place: _Place, value: Any, plain: Any) -> None:
        self._note(place, class_of(value), plain)
        self._later(place, [plain])

    def _note(self, place: _Place, was: str, by: Any) -> None:
        """Remember a replacement, unless it is inside of one that is remembered."""
        if len(self.replaced) >= MAX_REPLACED:
            return
        steps, outer = [], place
        while outer is not None:
            if id(outer) in self._noted:
                return
            steps.append(outer[1])
            outer = outer[0]
        if place is not None:
            self._noted[id(place)] = place
        self.replaced.append(Replaced(tuple(reversed(steps)), was, by))

    def _name(self, module: str, name: str) -> None:
        known = self._memo.get((module, name))
        if known is not None:
            self._recall(known)
        else:
            self._out += f"c{module}\n{name}\n".encode()
            self._number((module, name))

    def _hooks(self) -> None:
        """An empty OrderedDict, where a tensor's backward hooks once stood."""
        self._name("collections", "OrderedDict")
        self._out += b")R"

    # --- plain values

    def _text(self, value: str) -> None:
        if _key(value) in self._memo:
            self._recall(self._memo[_key(value)])
            return
        raw = value.encode("utf-8", "surrogatepass")
        if len(raw) >= 1 << 32:
            raise CheckpointError(f"a text of {len(raw):,} bytes does not fit in a checkpoint.")
        self._out += b"X" + struct.pack("<I", len(raw)) + raw
        self._remember(value)

    def _constant(self, _: _Place, value: bool | None) -> None:
        self._out += {None: b"N", True: b"\x88", False: b"\x89"}[value]

    def _int(self, place: _Place, value: int) -> None:
        if 0 <= value < 256:
            self._out += b"K" + bytes([value])
        elif -(2**31) <= value < 2**31:
            self._out += b"J" + struct.pack("<i", value)
        elif value.bit_length() < 8 * 255:
            raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            self._out += b"\x8a" + bytes([len(raw)]) + raw
        else:
            self._note(place, "an integer of more than 2,040 bits", hex(value))
            self._text(hex(value))

    def _float(self, _: _Place, value: float) -> None:
        self._out += b"G" + struct.pack(">d", value)

    def _complex(self, place: _Place, value: complex) -> None:
        self._name("__builtin__", "complex")
        self._later(place, [value.real, value.imag], b"\x86R")

    def _bytes(self, place: _Place, value: bytes) -> None:
        self._name("_codecs", "encode")
        self._todo.append((self._closed, place, value))
        self._later(place, [value.decode("latin-1"), "latin1"], b"\x86R")

    def _closed(self, _: _Place, value: Any) -> None:
        self._remember(value)

    def _bytearray(self, place: _Place, value: bytearray) -> None:
        self._name("__builtin__", "bytearray")
        self._todo.append((self._closed, place, value))
        self._later(place, [bytes(value)], b"\x85R")

    # --- containers

    def _list(self, place: _Place, value: list[Any]) -> None:
        self._out += b"]"
        self._remember(value)
        if value:
            self._fill(place, enumerate(value), self._emit, b"e")

    def _tuple(self, place: _Place, value: tuple[Any, ...]) -> None:
        if not value:
            self._out += b")"
            return
        self._open.add(id(value))
        self._alive.append(value)
        self._fill(place, enumerate(value), self._close_tuple, value)

    def _close_tuple(self, _: _Place, value: tuple[Any, ...]) -> None:
        self._out += b"t"
        self._open.discard(id(value))
        self._remember(value)

    def _dict(self, place: _Place, value: dict[Any, Any]) -> None:
        plain = not isinstance(value, ObjectDict) or value.cls.name == "defaultdict"
        if isinstance(value, ObjectDict) and not plain:
            self._name(value.cls.module, value.cls.name)
            self._out += b")R"
        else:
            self._out += b"}"
        self._remember(value)
        if isinstance(value, ObjectDict) and plain:
            self._note(place, str(value.cls), {})
        elif isinstance(value, ObjectDict) and isinstance(value.state, dict):
            self._later((place, "<attributes>"), [value.state], b"b")
        if value:
            self._fill(place, self._keys_and_values(place, value), self._emit, b"u")

    def _keys_and_values(self, place: _Place, value: dict[Any, Any]) -> Iterator[tuple[Any, Any]]:
        for key, part in value.items():
            if key == "hparams_type" and isinstance(part, Global):  # Lightning would call what stands there
                self._note((place, key), str(part), None)
            elif self._kept(part):
                yield key, hashable(key)
                yield key, part

    def _fill(self, place: _Place, parts: Iterator[tuple[Any, Any]], close: _Action, value: Any) -> None:
        """MARK, all that is inside a container, and then `close(place, value)`."""
        self._out += b"("
        self._todo.append((close, place, value))
        self._todo.append((self._go_on, place, parts))

    def _go_on(self, place: _Place, parts: Iterator[tuple[Any, Any]]) -> None:
        """Save what is left of a container's parts, up to one that has something inside it: that one comes first."""
        for step, part in parts:
            if type(part) not in _ATOMS:
                self._todo.append((self._go_on, place, parts))
                self._save((place, step), part if self._kept(part) else None)
                return
            self._save((place, step), part)

    def _kept(self, value: Any) -> bool:
        return not isinstance(value, (Tensor, Storage)) or self.keep(value)

    def _set(self, place: _Place, value: set[Any]) -> None:
        self._name("__builtin__", "set")
        self._todo.append((self._closed, place, value))
        self._later(place, [[hashable(part) for part in value]], b"\x85R")

    # --- tensors

    def _storage(self, _: _Place, storage: Storage, dtype: str | None = None) -> None:
        """A persistent id: `("storage", class, key, "cpu", elements)`. `dtype` is given if the class does not say."""
        stored = self.storages.get(id(storage))
        if stored is None:
            stored = self.storages[id(storage)] = Stored(str(len(self.storages)), storage, dtype or storage.dtype)
        name = None if dtype else _CLASSES.get(storage.dtype)
        self._out += b"("
        self._text("storage")
        self._name(*(("torch", name) if name else ("torch.storage", "UntypedStorage")))
        self._text(stored.key)
        self._text("cpu" if storage.location != "meta" else "meta")
        self._int(None, storage.numel if name else storage.nbytes)
        self._out += b"tQ"

    def _numbers(self, values: tuple[int, ...]) -> None:
        self._out += b"("
        for value in values:
            self._int(None, value)
        self._out += b"t"

    def _tensor(self, place: _Place, tensor: Tensor) -> None:
        if tensor.kind == "meta":
            self._meta(tensor)
        elif tensor.storage is not None:
            self._dense(place, tensor)
        elif tensor.parts and (tensor.kind.startswith("sparse_") or tensor.kind == "nested"):
            self._compound(place, tensor)
        else:
            self._foreign(place, tensor)

    def _dense(self, place: _Place, tensor: Tensor) -> None:
        assert tensor.storage is not None
        attributes = tensor.attributes if isinstance(tensor.attributes, dict) else {}
        if "scheme" in attributes and tensor.dtype.startswith(("qint", "quint")):
            self._quantised(place, tensor)
            return
        parameter = tensor.kind in ("Parameter", "torch.nn.parameter.Parameter")
        if parameter:
            self._name("torch._utils", "_rebuild_parameter")
            self._out += b"("
        self._view(tensor, tensor.requires_grad and not parameter)
        bits = {name: True for name in ("conj", "neg") if attributes.get(name) is True}
        if bits and tensor.dtype == tensor.storage.dtype:
            self._out += b"}(" + b"".join(
                b"X\x04\0\0\0conj\x88" if n == "conj" else b"X\x03\0\0\0neg\x88" for n in bits
            )
            self._out += b"u"
        self._out += b"tR"
        if parameter:
            self._end_of_call(place, tensor)
        self._remember(tensor)
        if (tensor.attributes and not bits) or not (parameter or tensor.kind == "Tensor"):
            self._note(place, f"{tensor.kind} with attributes", tensor)

    def _view(self, tensor: Tensor, requires_grad: bool) -> None:
        """`_rebuild_tensor_v2(storage, offset, shape, stride, requires_grad, hooks`, or `v3(…, dtype`: left open."""
        assert tensor.storage is not None
        typed = tensor.dtype == tensor.storage.dtype and tensor.dtype in _CLASSES
        self._name("torch._utils", "_rebuild_tensor_v2" if typed else "_rebuild_tensor_v3")
        self._out += b"("
        self._storage(None, tensor.storage, None if typed else tensor.dtype)
        self._int(None, tensor.offset)
        self._numbers(tensor.shape)
        self._numbers(tensor.stride)
        self._out += _truth(requires_grad)
        self._hooks()
        if not typed:
            self._name("torch", tensor.dtype)

    def _quantised(self, place: _Place, tensor: Tensor) -> None:
        assert tensor.storage is not None
        self._name("torch._utils", "_rebuild_qtensor")
        self._out += b"("
        self._storage(None, tensor.storage)
        self._int(None, tensor.offset)
        self._numbers(tensor.shape)
        self._numbers(tensor.stride)
        scheme = tensor.attributes
        parts = [*(tensor.parts or {}).values()]
        inside = [
            scheme["scheme"],
            *parts,
            *(scheme[name] for name in ("scale", "zero_point", "axis") if name in scheme),
        ]
        self._todo.append((self._end_of_call, place, tensor))
        self._later(place, [tuple(inside)])

    def _end_of_call(self, _: _Place, tensor: Tensor) -> None:
        self._out += _truth(tensor.requires_grad)
        self._hooks()
        self._out += b"tR"

    def _meta(self, tensor: Tensor) -> None:
        self._name("torch._utils", "_rebuild_meta_tensor_no_storage")
        self._out += b"("
        self._name("torch", tensor.dtype)
        self._numbers(tensor.shape)
        self._numbers(tensor.stride)
        self._out += _truth(tensor.requires_grad) + b"tR"

    def _compound(self, place: _Place, tensor: Tensor) -> None:
        """A sparse or a nested tensor, by the tensors it is made of."""
        parts = list((tensor.parts or {}).values())
        if tensor.kind == "nested":
            self._name("torch._utils", "_rebuild_nested_tensor")
            self._later(place, [tuple(parts)], b"R")
            return
        self._name("torch._utils", "_rebuild_sparse_tensor")
        self._name("torch.serialization", "_get_layout")
        self._text(f"torch.{tensor.kind}")
        self._out += b"\x85R"
        self._later(place, [(*parts, tensor.shape)], b"\x86R")


def _key(value: Any) -> int | str:
    """What a value is remembered by: short strings by what they say, all else by identity."""
    return value if isinstance(value, str) and len(value) <= _SHORT else id(value)


def _simplest(value: Any) -> Any:
    """A plain value for a foreign one; None if there is none."""
    try:
        for _ in range(_MAX_STEPS):
            value = simpler(value)
            if not isinstance(value, _FOREIGN):
                return value
    except CheckpointError:
        pass
    return None  # an object that says it stands for itself


def _truth(value: bool) -> bytes:
    return b"\x88" if value else b"\x89"


def _are_names(args: tuple[Any, ...]) -> bool:
    return 1 <= len(args) <= 2 and all(type(arg) in (str, int) for arg in args)


def _is_known(value: Any) -> bool:
    """True for a name that may stand in the file by itself: a dtype, or a scheme of quantisation."""
    name = value.name if isinstance(value, Global) and value.module == "torch" else ""
    return name in dtypes.ITEMSIZE or name.startswith(("per_tensor_", "per_channel_"))


_ATOMS = {type(None), bool, int, float, str}
_FOREIGN = (frozenset, Object, Global, Blob, NumpyArray, NumpyDtype, NumpyScalar)
_REMEMBERED = (list, tuple, dict, set, bytes, bytearray, Tensor)
_WRITERS: dict[type, Callable[[Pickler, _Place, Any], None]] = {
    type(None): Pickler._constant, bool: Pickler._constant, int: Pickler._int, float: Pickler._float,
    complex: Pickler._complex, bytes: Pickler._bytes, bytearray: Pickler._bytearray,
    list: Pickler._list, tuple: Pickler._tuple, dict: Pickler._dict, ObjectDict: Pickler._dict,
    set: Pickler._set, Storage: Pickler._storage, Tensor: Pickler._tensor,
}  # fmt: skip
"""How each type is written; `str` has a way of its own, being the most frequent."""
