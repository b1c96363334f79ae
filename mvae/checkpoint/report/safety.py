"""What a checkpoint would import and do if it were loaded, and what `torch.load(weights_only=True)` says to it.

A pickle loaded with `weights_only=False` imports and calls whatever it names. With `weights_only=True`, the default
since PyTorch 2.6, a second unpickler takes only tensors and plain containers and refuses every other name, unless the
user has put it on a list with `torch.serialization.add_safe_globals`. That unpickler is followed here, rule by rule,
without torch. Source: `torch/_weights_only_unpickler.py` of PyTorch 2.13.
"""

from __future__ import annotations

import pickle
import re
from dataclasses import dataclass, field
from typing import Any

from mvae.checkpoint.formats.contents import Contents
from mvae.checkpoint.formats.detect import Format
from mvae.checkpoint.pickled.dtypes import ITEMSIZE
from mvae.checkpoint.pickled.machine import Trace
from mvae.checkpoint.pickled.reach import LOADERS, reach
from mvae.checkpoint.pickled.values import Global, Object, ObjectDict
from mvae.text import Result

_ELEMENTS = ["BFloat16", "Byte", "Char", "Double", "Float", "Half", "Int", "Long", "Short"]
_REBUILD = [
    "device_tensor_from_cpu_tensor", "device_tensor_from_numpy", "meta_tensor_no_storage", "nested_tensor",
    "parameter", "parameter_with_state", "qtensor", "sparse_tensor", "tensor", "tensor_v2", "tensor_v3",
    "wrapper_subclass",
]  # fmt: skip
_OTHERS = [
    "_codecs.encode", "builtins.bytearray", "builtins.complex", "builtins.set", "collections.Counter",
    "collections.OrderedDict", "torch.Size", "torch.Tensor", "torch.device", "torch._tensor._rebuild_from_type_v2",
    "torch.nn.parameter.Parameter", "torch.serialization._get_layout", "torch.storage.TypedStorage",
    "torch.storage.UntypedStorage", "torch.per_channel_affine", "torch.per_channel_affine_float_qparams",
    "torch.per_channel_symmetric", "torch.per_tensor_affine", "torch.per_tensor_symmetric",
]  # fmt: skip


def _allowed() -> frozenset[str]:
    places = ("torch", "torch.cuda")
    storages = [*_ELEMENTS, "Bool", "ComplexDouble", "ComplexFloat"]
    return frozenset(
        [f"{place}.{name}Storage" for place in places for name in storages]
        + [f"{place}.{name}Tensor" for place in places for name in [*_ELEMENTS, "Bool"]]
        + [f"{place}.sparse.{name}Tensor" for place in places for name in _ELEMENTS]
        + [f"torch.{name}Storage" for name in ("QInt32", "QInt8", "QUInt2x4", "QUInt4x2", "QUInt8")]
        + [f"torch._utils._rebuild_{name}" for name in _REBUILD]
        + [f"torch.{name}" for name in ITEMSIZE]
        + _OTHERS
    )


ALLOWED = _allowed()
"""What `weights_only=True` takes without being asked."""

_NEVER_ALLOWED = ("sys", "os", "posix", "nt")
"""Modules that it refuses even if they are on the list."""

_RENAMED_BY_TORCH = ("__builtin__", "copy_reg", "Queue", "repr", "UserDict", "UserList", "UserString")
"""Modules of Python 2 whose new names it knows (`torch/_utils.py`); all others it asks for as they are written."""

_OPCODES_TAKEN = frozenset(
    b"".join(getattr(pickle, name) for name in (
        "GLOBAL", "NEWOBJ", "REDUCE", "BUILD", "APPEND", "APPENDS", "SETITEM", "SETITEMS", "MARK", "TUPLE", "TUPLE1",
        "TUPLE2", "TUPLE3", "NONE", "NEWFALSE", "NEWTRUE", "EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET",
        "BININT", "BININT1", "BININT2", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING", "BINPERSID", "BINGET",
        "LONG_BINGET", "BINPUT", "LONG_BINPUT", "LONG1", "PROTO", "STOP",
    ))
)  # fmt: skip

_NUMPY_TYPES = {
    "f8": "Float64", "f4": "Float32", "f2": "Float16", "i8": "Int64", "i4": "Int32", "i2": "Int16", "i1": "Int8",
    "u8": "UInt64", "u4": "UInt32", "u2": "UInt16", "u1": "UInt8", "b1": "Bool", "O8": "Object",
    "c8": "Complex64", "c16": "Complex128", "M8": "DateTime64", "m8": "TimeDelta64",
    "f16": "LongDouble", "f12": "LongDouble", "c32": "CLongDouble", "c24": "CLongDouble",
    "U": "Str", "S": "Bytes", "V": "Void",
}  # fmt: skip

_OWN_OF_SHARDED = frozenset(
    [f"torch.distributed.checkpoint.metadata.{name}" for name in (
        "BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta", "TensorProperties",
        "TensorStorageMetadata", "_MEM_FORMAT_ENCODING",
    )] + ["torch.distributed.checkpoint.filesystem._StorageInfo"]
)  # fmt: skip
"""What makes up every `.metadata`, name by name: nothing passes by its prefix."""

_FILLED = (Global("collections", "OrderedDict"), Global("collections", "Counter"))
_CALLABLES = ("functools.partial", "functools.partialmethod", "builtins.getattr")
_CLASS = re.compile(r"_*[A-Z]")


@dataclass(frozen=True)
class Refusal:
    """A name that `weights_only=True` refuses, or another pickle in the file.

    Attributes:
        name: with its module, such as `pathlib.PosixPath`; or the name of the other pickle.
        reason: one sentence.
        system: True if the file can reach the operating system or run any code with it.
    """

    name: str
    reason: str
    system: bool


@dataclass(frozen=True)
class Safety(Result):
    """What loading the file would do.

    Attributes:
        weights_only: True if `torch.load(weights_only=True)` loads it as it is.
        taken: names that it imports and that are on PyTorch's own list.
        obstacles: what no list of names can help, one sentence each.
        allow_list: the fewest names to give to `torch.serialization.add_safe_globals` so that it loads, each as Python
            takes it: a name, or a pair of a name and what the file calls it. None if there is no such list, or if it
            would let a dangerous name pass. Whoever adds a name trusts it: its code runs.
        unseen: what could not be looked into, one sentence each.
        refused: names that it imports and that are not.
        beside: other pickles in the file, which its loader does not read, with what they would do.
    """

    weights_only: bool
    taken: list[str] = field(default_factory=list)
    obstacles: list[str] = field(default_factory=list)
    allow_list: list[str] | None = None
    unseen: list[str] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    beside: list[Refusal] = field(default_factory=list)

    @property
    def system(self) -> list[Refusal]:
        """What reaches for the system: the file is an attack, or was made very carelessly."""
        return [refusal for refusal in [*self.refused, *self.beside] if refusal.system]

    @property
    def passes(self) -> bool:
        """What `--strict` asks: PyTorch takes the file as it is, and no other pickle in it is dangerous."""
        return self.weights_only and not self.system


def judge(contents: Contents) -> Safety:
    """Follow PyTorch's unpickler through what the file's pickles do."""
    trace = contents.trace
    beside = [_beside(name, other) for name, other in contents.beside.items()]
    unseen = [sentence for other in contents.beside.values() for sentence in other.unseen]
    if trace is None:
        return Safety(True, allow_list=[], beside=beside, unseen=unseen)
    names = [name for name in dict.fromkeys(trace.globals) if not _belongs_to_format(contents, name)]
    taken = [str(name) for name in names if _asked(name) in ALLOWED]
    refused = [_refusal(name, trace) for name in names if _asked(name) not in ALLOWED]
    obstacles = _obstacles(contents, names)
    allow_list = None
    if not obstacles and not any(refusal.system or refusal.name in _CALLABLES for refusal in refused):
        allow_list = [_entry(name) for name in names if _asked(name) not in ALLOWED] + _hidden_types(trace)
    return Safety(
        not refused and not obstacles, taken, obstacles, allow_list, [*trace.unseen, *unseen], refused, beside
    )


def _belongs_to_format(contents: Contents, name: Global) -> bool:
    """True for what makes up every sharded checkpoint's `.metadata`, and for the classes a TorchScript file brings."""
    if contents.format is Format.SHARDED:
        return str(name) in _OWN_OF_SHARDED
    if contents.format is Format.TORCHSCRIPT:
        return name.module.startswith(("__torch__", "torch.jit._pickle")) and reach(name) is None
    return False


def _asked(name: Global) -> str:
    """The name that PyTorch looks for, which brings fewer names of Python 2 up to date than Python does."""
    return str(name) if name.written.partition(".")[0] in _RENAMED_BY_TORCH else name.written


def _entry(name: Global) -> str:
    """How a name is given to `add_safe_globals`: alone if it says of itself what the file says of it."""
    real = str(name).replace("numpy.core.", "numpy._core.", 1)
    return real if real == _asked(name) else f'({real}, "{_asked(name)}")'


def _refusal(name: Global, trace: Trace) -> Refusal:
    danger = _danger(name, trace)
    if danger:
        how = "calls" if name.uses & {"called", "made", "result called"} else "names"
        return Refusal(str(name), f"the file {how} {name}, which {danger}: do not load it.", True)
    package = name.module.partition(".")[0]
    why = _WHY.get(str(name)) or _WHY.get(package) or _WHY["any other"]
    taken = ", ".join(dict.fromkeys(_attributes(trace))) if "{taken}" in why else ""
    return Refusal(str(name), why.format(package=package, taken=taken), False)


_PYTHONS_OWN = ("pathlib", "collections", "datetime", "enum", "argparse", "functools", "builtins", "typing")

_WHY = {
    **dict.fromkeys(_PYTHONS_OWN, "from Python itself, and not one of the few plain types that PyTorch takes."),
    **dict.fromkeys(LOADERS, "a pickle inside the pickle, as `pickle.dump` writes a tensor; it was looked into, and "
    "its names count."),
    "builtins.getattr": "a method or a member taken from what the file itself holds ({taken}), as Python saves a bound "
    "method.",
    "functools.partial": "a call that waits to be made; on a list of allowed names it would let a file call anything.",
    "numpy": "a numpy number or array; PyTorch takes only its own tensors and plain numbers.",
    "torch": "a part of PyTorch that is neither a tensor nor a type of one.",
    "__main__": "a class from the script that saved it, which a loader would have to define again.",
    "any other": "a class or function of the package '{package}', whose code would run.",
}  # fmt: skip
"""Why `weights_only=True` refuses a name that is not dangerous: by the name, or by its package."""


def _danger(name: Global, trace: Trace) -> str | None:
    """What a file can do with a name, if that is more than its own business; calls are followed to where they lead."""
    found = reach(name)
    if str(name) == "builtins.getattr" and "called" in name.uses and "not followed" not in name.uses:
        calls = [args for function, args in trace.calls if function == name]
        if "result called" in name.uses and not all(args and isinstance(args[0], Global) for args in calls):
            return found  # a method of an object, which is called; of a class or module, the name says what it is
        reached = [_attribute(args) for args in calls]
        return found if None in reached else next(filter(None, map(reach, filter(None, reached))), None)
    if str(name) == "torch.storage._load_from_bytes" and "called" in name.uses and "not followed" not in name.uses:
        return None
    if str(name) == "functools.partial" and "result called" in name.uses:
        return "makes a call of whatever it is given, and the file makes that call"
    return found


def _attributes(trace: Trace) -> list[str]:
    return [str(_attribute(args)) for function, args in trace.calls if str(function) == "builtins.getattr"]


def _attribute(args: tuple[Any, ...]) -> Global | None:
    """What `getattr(x, "name")` reaches: `module.x.name`; None if that does not follow from the file."""
    owner = args[0] if args else None
    if isinstance(owner, (Object, ObjectDict)):
        owner = owner.cls
    if len(args) not in (2, 3) or type(args[1]) is not str or not isinstance(owner, Global):
        return None
    return Global(owner.module, f"{owner.name}.{args[1]}")


def _beside(name: str, trace: Trace) -> Refusal:
    """A pickle that the file's loader passes over."""
    dangers = [f"{found}, which {_danger(found, trace)}" for found in trace.globals if _danger(found, trace)]
    named = dangers or [str(found) for found in trace.globals if str(found) not in ALLOWED]
    does = f"it names {', '.join(named[:3])}" if named else "it runs nothing"
    return Refusal(name, f"another pickle, which is not read when the file is loaded; {does}.", bool(dangers))


def _obstacles(contents: Contents, names: list[Global]) -> list[str]:
    """Why it would not load whatever is on the list."""
    trace = contents.trace
    assert trace is not None
    if contents.format is Format.SHARDED:
        return ["it is a folder for `torch.distributed.checkpoint`, which unpickles '.metadata' without such a check."]
    found = [_OF_FORMAT[contents.format]] if contents.format in _OF_FORMAT else []
    found += [f"{name}{obstacle}" for name in names if (obstacle := _obstacle(name))]
    if trace.named_classes:
        found.append("it names classes by persistent id, as the old format does for an `nn.Module`: they are refused.")
    foreign = trace.opcodes - _OPCODES_TAKEN
    if foreign:
        how = f"protocol {trace.protocol}" if trace.protocol > 2 else "instructions"
        found.append(f"it uses pickle {how} that `weights_only=True` does not know; `torch.save` writes protocol 2.")
    return found


_OF_FORMAT = {
    Format.TORCHSCRIPT: "it is TorchScript, a program: `torch.load(weights_only=True)` refuses it, `torch.jit.load` "
    "runs it.",
    Format.PICKLE: "it is a pickle without PyTorch's format around it: `pickle.load`, and `torch.load(weights_only="
    "False)` as it looks for that format, run all that it calls.",
}
"""What no list helps in a format, whatever the file names."""


def _obstacle(name: Global) -> str | None:
    """Why a file that does this with a name cannot be loaded even if the name is on the list."""
    if name.module in _NEVER_ALLOWED:
        return f": PyTorch blocks the module '{name.module}' whatever is on the list."
    if "filled" in name.uses and name not in _FILLED:
        return " is filled item by item, which PyTorch allows for list, dict, OrderedDict and Counter only."
    if "result called" in name.uses:
        return ": what came of calling it is called in turn, which PyTorch refuses."
    if "changed" in name.uses:
        return " is itself given a state or items, which PyTorch allows for objects only."
    if {"built", "called"} <= name.uses and not _names_its_type(name):
        return ": what it returns is given a state, and PyTorch asks for a type that the file does not name."
    return None


def _names_its_type(name: Global) -> bool:
    """True if what a call of the name returns is of a type that the list has then: a class, or a known function."""
    known = name.builder is not None or str(name) in ALLOWED
    return known or "made" in name.uses or bool(_CLASS.match(name.name.rpartition(".")[2])) or name.name == "partial"


def _hidden_types(trace: Trace) -> list[str]:
    """Types that the pickle does not name and PyTorch asks for all the same.

    `numpy.dtype("f4")` makes an object of the class `numpy.dtypes.Float32DType`, and that class must be on the list
    before its state may be set.
    """
    codes = [code.lstrip("<>|=") for code in trace.numpy_types]
    known = [_NUMPY_TYPES.get(code) or _NUMPY_TYPES.get(code[:1]) for code in codes]
    return [f"numpy.dtypes.{name}DType" for name in dict.fromkeys(known) if name]
