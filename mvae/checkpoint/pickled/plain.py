"""What becomes of each value of a tree, so that what is written loads anywhere, with `weights_only=True`.

A checkpoint may hold an OmegaConf dict, a `pathlib.Path`, a numpy number, a class of the project that made it. The
reader shows each as an inert placeholder; here each becomes the nearest plain value. Its class is lost, its content
is not; where there is content that no plain value holds, `Replaced.lost` says which.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterable
from itertools import islice
from typing import Any, NamedTuple

from mvae.checkpoint.files.source import Record, Source
from mvae.checkpoint.pickled import dtypes
from mvae.checkpoint.pickled.limits import KeyGuard
from mvae.checkpoint.pickled.meaning import class_name, meaning
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
    contiguous,
)
from mvae.checkpoint.pickled.walk import Path, children
from mvae.errors import CheckpointError
from mvae.text import printable

MAX_REPLACED = 1000
"""Replacements that are listed; and as many again with a loss."""
LONGEST_INT = 8 * 255
"""Bits. PyTorch's restricted reader has no opcode for longer integers; these become text."""

TAKEN_CALLS = (Global("torch", "device"), Global("torch.serialization", "_get_layout"))
"""Calls that are no tensors, and that PyTorch's restricted reader makes."""

_MAX_DEPTH, _MAX_VALUES = 100, 2_000_000
_MAX_STEPS = 100
_SHORT, _MANY = 60, 24  # letters, and parts of a container, that are shown of a value
_ATOMS = (str, bytes, bool, int, float, complex, type(None))
_LEAVES = frozenset({*_ATOMS, bytearray})
_KEYS = frozenset({str, int, float, bool, type(None)})
_FOREIGN = (frozenset, Object, Global, Blob, NumpyArray, NumpyDtype, NumpyScalar)

ORDINARY = ("Tensor", "Parameter", "torch.nn.parameter.Parameter")
"""Kinds of tensor whose class is PyTorch's own."""

_HPARAMS_TYPES = ("hparams_type", "datamodule_hparams_type")
"""Keys of Lightning's for the class of the hyperparameters. Where it finds a text, it makes them an AttributeDict."""

ONLY_NAME = "of a class or function only the name is kept"


class Replaced(NamedTuple):
    """A value that was not plain. What was inside it was replaced too, and is listed only if something was lost.

    Attributes:
        path: where it is, in the new tree.
        was: the name of its class.
        by: what stands there now; None if it was left out.
        lost: what has no plain form, in words; empty if all of it has.
        note: what else there is to know of it, in words.
    """

    path: Path
    was: str
    by: Any
    lost: str = ""
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """name, was, by, lost, note, as JSON takes them."""
        by = None if self.by is None else shown(self.by)
        name = ".".join(map(str, self.path))
        return {"name": name, "was": self.was, "by": by, "lost": self.lost, "note": self.note}

    def __str__(self) -> str:
        name = printable(".".join(map(str, self.path)) or "the whole file", 120)
        by = "left out" if self.by is None else f"now {printable(shown(self.by))}"
        return f"{name} was {printable(self.was, 80)}, {by}" + "".join(
            f"; {printable(why, 200)}" for why in (self.lost, self.note) if why
        )


class Plain:
    """What each value of a tree becomes. The same object is the same plain value wherever it is met.

    Args:
        keep: says which tensors and storages to keep; the others vanish from dicts, and are None in lists.
    """

    def __init__(self, keep: Callable[[Tensor | Storage], bool] = lambda _: True) -> None:
        self.keep = keep
        self.replaced: list[Replaced] = []
        self._listed = [0, 0]  # without loss, with
        self._changes: dict[int, _Change] = {}  # by id; a change holds its value, so that the id stays its own

    def of(self, value: Any) -> Any:
        """What is written in place of a value of the tree; what is inside has a place of its own."""
        change = self._changes.get(id(value))
        return value if change is None else change.new

    def go_through(self, tree: Any) -> list[Replaced]:
        """Settle what becomes of every value, without recursion, and list what changes, in the order of the file."""
        entered: set[int] = set()
        open_: set[int] = set()
        stack: list[tuple[Path, Any, Any, bool]] = [((), None, tree, False)]
        while stack:
            outer, step, value, inside = stack.pop()
            if step is _CLOSE:
                open_.discard(value)
                continue
            path = outer if step is None and not outer and value is tree else (*outer, step)
            if id(value) in open_:
                self._note(path, "a tuple that holds itself", None, "no file can hold it", "")
                continue
            found = self._settle(path, value, inside)
            plain = self.of(value)
            if type(plain) in _LEAVES or id(plain) in entered:
                continue
            entered.add(id(plain))
            if isinstance(plain, tuple):
                open_.add(id(plain))
                stack.append((path, _CLOSE, id(plain), inside))
            parts = [(path, step, part, found) for step, part in children(plain) if _may_change(part)]
            stack += reversed(parts)
        return self.replaced

    def _settle(self, path: Path, value: Any, inside: bool) -> bool:
        """Settle one value; True if it is, or is inside of, one that was replaced."""
        if path[-1:] and path[-1] in _HPARAMS_TYPES and isinstance(value, Global):
            self._changes.setdefault(id(value), _Change(value, str(value), str(value), ONLY_NAME))
            self._note(path, "a class", str(value), note="Lightning makes an AttributeDict of the settings")
            return True
        change = self._changes.get(id(value))
        if change is None:
            change = self._change(path, value)
            if change is None:
                return inside
            self._changes[id(value)] = change
        if change.was and (change.lost or change.note or not inside):
            self._note(path, change.was, change.new, change.lost, change.note)
        return inside or bool(change.was)

    def _note(self, path: Path, was: str, by: Any, lost: str = "", note: str = "") -> None:
        listed = self._listed[bool(lost)] = self._listed[bool(lost)] + 1
        if listed <= MAX_REPLACED:
            self.replaced.append(Replaced(path, was, by, lost, note))

    def _change(self, path: Path, value: Any) -> _Change | None:
        """What becomes of a value; None if it stays."""
        if isinstance(value, (Tensor, Storage)):
            if not self.keep(value):
                return _Change(value, None)
            return _tensor(value) if isinstance(value, Tensor) else None
        if isinstance(value, int):
            return _Change(value, hex(value), class_of(value)) if _is_long(value) else None
        was = str(value.cls) if isinstance(value, ObjectDict) and value.cls.name == "defaultdict" else ""
        new, lost = value, ""
        if isinstance(value, _FOREIGN) and not stays(value):
            new, lost = nearest(value)
            was = "" if isinstance(value, Blob) else class_of(value)
        if isinstance(new, dict):
            new = self._entries(path, new, dict(new) if was else new)
        elif isinstance(new, set) and not all(map(_is_plain_key, new)):
            new = set(self._keys(path, new))
        if new is value:
            return None
        refers = was.startswith("omegaconf.") and isinstance(new, str) and "${" in new
        return _Change(value, new, was, lost, "it refers to a value that is not in the file" if refers else "")

    def _entries(self, path: Path, value: dict[Any, Any], unchanged: dict[Any, Any]) -> dict[Any, Any]:
        """The entries whose values are kept, under plain keys."""
        dropped = {key for key, part in value.items() if isinstance(part, (Tensor, Storage)) and not self.keep(part)}
        if not dropped and all(map(_is_plain_key, value)):
            return unchanged
        new: dict[Any, Any] = {}
        if isinstance(value, ObjectDict) and value.cls.name != "defaultdict":
            new = ObjectDict(value.cls)
            new.state = value.state
        kept = [key for key in value if key not in dropped]
        new.update(zip(self._keys(path, kept), (value[key] for key in kept), strict=True))
        return new

    def _keys(self, path: Path, keys: Iterable[Any]) -> list[Hashable]:
        """Plain keys for these. Two that differ stay two."""
        keys = list(keys)
        plain = [key if _is_plain_key(key) else hashable(key) for key in keys]
        KeyGuard().fill(set(), plain)  # refuses those that were chosen to keep Python busy
        taken = dict.fromkeys((key for key in keys if _is_plain_key(key)), 1)
        for place, key in enumerate(keys):
            if _is_plain_key(key):
                continue
            new = plain[place]
            taken[new] = times = taken.get(new, 0) + 1
            plain[place] = new if times == 1 else f"{new} ({times})"
            if new is not key and not (isinstance(key, tuple) and new == key):
                self._note((*path, plain[place]), f"under a key that was {class_of(key)}", plain[place], _key_loss(key))
        return plain


_CLOSE = object()


class _Change(NamedTuple):
    value: Any
    new: Any
    was: str = ""
    lost: str = ""
    note: str = ""


def _is_long(value: int) -> bool:
    return value.bit_length() >= LONGEST_INT


def _may_change(value: Any) -> bool:
    kind = type(value)
    return kind not in _LEAVES or (kind is int and _is_long(value))


def _is_plain_key(key: Any) -> bool:
    kind = type(key)
    return kind is str or (kind in _KEYS and not _may_change(key))


def stays(value: Any) -> bool:
    """True for a placeholder that PyTorch's restricted reader takes as it is: a dtype, device, layout or scheme."""
    if isinstance(value, Object):
        return value.cls in TAKEN_CALLS and 1 <= len(value.args) <= 2 and {*map(type, value.args)} <= {str, int}
    name = value.name if isinstance(value, Global) and value.module == "torch" else ""
    return name in dtypes.ITEMSIZE or name.startswith(("per_tensor_", "per_channel_"))


def nearest(value: Any) -> tuple[Any, str]:
    """The plain value nearest to a foreign one, or None, and what of it is lost, in words.

    What is inside may need a step of its own.
    """
    why = ""
    try:
        for _ in range(_MAX_STEPS):
            value, lost = simpler(value)
            why = why or lost
            if not isinstance(value, _FOREIGN) or stays(value):
                return value, why
    except CheckpointError as error:
        return None, str(error)
    return None, "it stands for itself"


def simpler(value: Any) -> tuple[Any, str]:
    """One step towards a plain value, and what is lost by it.

    Raises:
        CheckpointError: an array whose elements have no plain form.
    """
    if isinstance(value, Object):
        return _object(value)
    if isinstance(value, Global):
        return str(value), ONLY_NAME
    if isinstance(value, Blob):
        return value.content(), ""
    if isinstance(value, frozenset):
        return set(value), ""
    if isinstance(value, NumpyScalar):
        found = meaning(value)
        unread = isinstance(found, bytes) and value.dtype.code.lstrip("<>|=")[:1] != "S"
        return found, f"a numpy value of type '{value.dtype.code}' stays undecoded" if unread else ""
    if isinstance(value, NumpyArray):
        return _objects(value) if isinstance(value.data, list) else (_array(value), "")
    if isinstance(value, NumpyDtype):
        return value.code, ""
    return repr(value), f"nothing is known of {class_of(value)}"


def class_of(value: Any) -> str:
    """The name of what a placeholder stands for, for people."""
    if isinstance(value, (Object, NumpyArray)):
        return class_name(value.cls)
    if isinstance(value, Tensor):
        return value.kind
    if isinstance(value, NumpyScalar):
        return f"numpy {value.dtype.code}"
    if isinstance(value, int) and _is_long(value):
        return f"an integer of more than {LONGEST_INT:,} bits"
    return str(value) if isinstance(value, Global) else type(value).__name__


def hashable(value: Any, depth: int = 20) -> Hashable:
    """A key of a dict, or a member of a set, as a plain one; one nested deeper than anybody's becomes text."""
    if isinstance(value, _ATOMS):
        return hex(value) if isinstance(value, int) and _is_long(value) else value
    if isinstance(value, (tuple, frozenset)) and depth:
        return tuple(hashable(part, depth - 1) for part in value)
    found = nearest(value)[0] if isinstance(value, (Object, Global, NumpyScalar)) else None
    if isinstance(found, _ATOMS) and found is not None:
        return found
    return class_of(value) if found is None else f"{class_of(value)} {shown(found)}"


def _key_loss(key: Any, depth: int = 20) -> str:
    """What is lost of a key that `hashable` makes plain."""
    if isinstance(key, (tuple, frozenset)) and depth:
        return next(filter(None, (_key_loss(part, depth - 1) for part in key)), "")
    found, lost = nearest(key) if isinstance(key, _FOREIGN) else (key, "")
    return lost or ("" if isinstance(found, _ATOMS) else "only this text is left of it")


def _object(value: Object) -> tuple[Any, str]:
    """The content of an object: its entries, items, attributes or arguments, whichever it has; and what is lost."""
    known, name = meaning(value), class_name(value.cls)
    if known is not value:
        return known, "it cannot be called any more" if name == "functools.partial" else ""
    if name == "builtins.getattr":
        return class_name(value), ONLY_NAME
    attributes, parts = value.attributes, dict(value.parts())
    if attributes:
        parts["state"] = attributes
    elif value.state in ({}, (None, {})):
        parts.pop("state", None)
    if not parts:
        return name, "nothing of it is in the file but the name of its class"
    lost = _lost(value, name)
    if len(parts) == 1:
        return (_arguments(value) if "args" in parts else next(iter(parts.values()))), lost
    filled = next((parts[part] for part in ("entries", "items") if part in parts), None)
    if filled is not None and len(parts) == 2 and attributes:
        extra = [key for key in attributes if not (isinstance(filled, dict) and filled.get(key) is attributes[key])]
        return filled, f"its attributes {', '.join(map(str, extra))}" if extra else lost
    return parts, lost


def _arguments(value: Object) -> Any:
    """What it was made from: an Enum's value, a named tuple's fields."""
    made = isinstance(value.cls, Global) and "made" in value.cls.uses
    if made:
        return value.args
    return value.args[0] if len(value.args) == 1 else list(value.args)


def _lost(value: Object, name: str) -> str:
    if {"_parameters", "_modules"} <= value.attributes.keys():
        return "it is a module: its attributes are kept, its code is not"
    uses = value.cls.uses if isinstance(value.cls, Global) else {"called"}
    if "made" not in uses and "called" in uses and not name.rpartition(".")[2].lstrip("_")[:1].isupper():
        return "what this call makes is not known: its arguments are kept"
    return ""


def _tensor(tensor: Tensor) -> _Change | None:
    """A tensor of a class of its own becomes an ordinary one; one without values becomes the parts it has."""
    if tensor.kind == "meta" or tensor.kind.startswith("sparse_") or tensor.kind == "nested":
        return None
    if tensor.storage is None:
        new = tensor.attributes if tensor.parts is None else tensor.parts
        return _Change(tensor, new, tensor.kind, "it has no values of its own: its parts are kept")
    if tensor.kind in ORDINARY:
        return None
    names = tensor.attributes if isinstance(tensor.attributes, dict) else {}
    return _Change(tensor, tensor, tensor.kind, f"its attributes {', '.join(map(str, names))}" if names else "")


def _objects(value: NumpyArray) -> tuple[Any, str]:
    """A numpy array of objects as lists in lists; numpy writes its objects row by row, however they lie in memory."""
    found = list(value.data)
    count = 1
    for length in value.shape:
        count *= length
    if count != len(found):
        return found, f"its shape {list(value.shape)}"
    for length in reversed(value.shape[1:]):
        found = [found[start : start + length] for start in range(0, len(found), length)] if length else found
    return (found if value.shape else found[0]), ""


def _array(value: NumpyArray) -> Any:
    """A numpy array of numbers as a tensor on the same bytes; one of text or objects as lists."""
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
    record = Record(Source("numpy", memoryview(data)), "numpy", 0, len(data))
    tensor.storage = Storage("numpy", dtype, tensor.numel, "cpu", record, byteorder)
    return tensor


def to_json(value: Any) -> str:
    """A tree as JSON. What JSON has no word for comes as the nearest thing: sets as lists, tensors as a description.

    Raises:
        CheckpointError: it is deeper, or larger, than any settings are.
    """
    left = _MAX_VALUES

    def convert(value: Any, depth: int) -> Any:
        nonlocal left
        left -= 1
        if left < 0 or depth < 0:  # it may hold itself
            raise CheckpointError("it is too deep or too large to be written as JSON.")
        if isinstance(value, (str, bool, int, float, type(None))):
            return value
        if isinstance(value, dict):
            return {str(hashable(key)): convert(part, depth - 1) for key, part in value.items()}
        if isinstance(value, (list, tuple, set, frozenset)):
            return [convert(part, depth - 1) for part in value]
        if isinstance(value, (bytes, bytearray)):
            return value.decode("latin-1")
        if isinstance(value, (Tensor, complex)):
            return str(value)
        return convert(simpler(value)[0], depth - 1)

    return json.dumps(convert(value, _MAX_DEPTH), ensure_ascii=False)


def shown(value: Any) -> str:
    """A value in a line, for a list of what was changed."""
    found = _preview(value, 4)
    text = found if isinstance(found, str) else repr(found)
    return text if len(text) <= _SHORT else text[: _SHORT - 1] + "…"


def _preview(value: Any, depth: int) -> Any:
    """The beginning of a value, as plain as it will be."""
    if isinstance(value, _FOREIGN) and not stays(value):
        value = nearest(value)[0]
    if isinstance(value, (str, bytes, bytearray)):
        return value[: 2 * _SHORT]
    if isinstance(value, int):
        return class_of(value) if _is_long(value) else value
    if isinstance(value, (dict, list, tuple, set)) and not depth:
        return "…"
    if isinstance(value, dict):
        first = islice(value.items(), _MANY)
        return {key if type(key) in _KEYS else hashable(key): _preview(part, depth - 1) for key, part in first}
    if isinstance(value, set):
        return {hashable(part) for part in islice(value, _MANY)}
    parts = (_preview(part, depth - 1) for part in islice(value, _MANY)) if isinstance(value, (list, tuple)) else ()
    return list(parts) if isinstance(value, list) else tuple(parts) if isinstance(value, tuple) else value
