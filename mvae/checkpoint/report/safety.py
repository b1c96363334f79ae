"""What a checkpoint would import and do if it were loaded, and what `torch.load(weights_only=True)` says to it.

A pickle loaded with `weights_only=False` imports and calls whatever it names. With `weights_only=True`, the default
since PyTorch 2.6, a second unpickler takes only tensors and plain containers and refuses every other name, unless the
user has put it on a list with `torch.serialization.add_safe_globals`. That unpickler is followed here, rule by rule,
without torch. Source: `torch/_weights_only_unpickler.py` of PyTorch 2.13.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from typing import Any

from mvae.checkpoint.formats.contents import Contents
from mvae.checkpoint.formats.detect import Format
from mvae.checkpoint.pickled.dtypes import ITEMSIZE
from mvae.checkpoint.pickled.values import Global

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

_SYSTEM_MODULES = frozenset([
    "os", "posix", "nt", "subprocess", "sys", "shutil", "socket", "pty", "ctypes", "_ctypes", "cffi", "importlib",
    "imp", "runpy", "code", "codeop", "marshal", "pickle", "_pickle", "dill", "cloudpickle", "joblib", "io", "_io",
    "tempfile", "webbrowser", "urllib", "http", "ftplib", "smtplib", "telnetlib", "xmlrpc", "requests", "httpx",
    "aiohttp", "asyncio", "multiprocessing", "threading", "_thread", "signal", "pdb", "bdb", "timeit", "trace",
    "profile", "cProfile", "doctest", "pip", "ensurepip", "venv", "commands", "popen2", "platform", "pydoc",
    "lib2to3", "idlelib", "tarfile", "zipfile", "pkgutil", "zipimport", "site", "gc", "inspect", "logging.config",
    "builtins.eval", "builtins.exec", "builtins.compile", "builtins.open", "builtins.__import__", "builtins.getattr",
    "builtins.setattr", "builtins.delattr", "builtins.globals", "builtins.locals", "builtins.vars", "builtins.input",
    "builtins.breakpoint", "builtins.exit", "builtins.quit", "builtins.execfile", "builtins.apply", "builtins.map",
    "builtins.filter", "types.CodeType", "types.FunctionType", "operator.attrgetter", "operator.methodcaller",
    "functools.reduce", "torch.load", "torch.hub", "torch.serialization.load", "torch.storage._load_from_bytes",
    "torch.utils.cpp_extension", "torch.jit.load", "torch.ops", "torch._dynamo", "torch._inductor", "torch.package",
    "torch.distributed.rpc", "torch.utils.collect_env", "torch.multiprocessing", "numpy.load", "numpy.f2py",
    "numpy.distutils", "numpy.testing", "numpy.memmap", "pandas.read_pickle", "pandas.io.pickle",
])  # fmt: skip
"""Names, or whole modules, with which a file can run commands, open files or sockets, or load another program."""

_OPCODES_TAKEN = frozenset(
    b"".join(
        [
            pickle.GLOBAL, pickle.NEWOBJ, pickle.REDUCE, pickle.BUILD, pickle.APPEND, pickle.APPENDS, pickle.SETITEM,
            pickle.SETITEMS, pickle.MARK, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3, pickle.NONE,
            pickle.NEWFALSE, pickle.NEWTRUE, pickle.EMPTY_TUPLE, pickle.EMPTY_LIST, pickle.EMPTY_DICT,
            pickle.EMPTY_SET, pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.BINFLOAT, pickle.BINUNICODE,
            pickle.SHORT_BINSTRING, pickle.BINPERSID, pickle.BINGET, pickle.LONG_BINGET, pickle.BINPUT,
            pickle.LONG_BINPUT, pickle.LONG1, pickle.PROTO, pickle.STOP,
        ]
    )
)  # fmt: skip

_NUMPY_TYPES = {
    "f8": "Float64", "f4": "Float32", "f2": "Float16", "i8": "Int64", "i4": "Int32", "i2": "Int16", "i1": "Int8",
    "u8": "UInt64", "u4": "UInt32", "u2": "UInt16", "u1": "UInt8", "b1": "Bool", "O8": "Object",
    "c8": "Complex64", "c16": "Complex128", "M8": "DateTime64", "m8": "TimeDelta64",
}  # fmt: skip


@dataclass(frozen=True)
class Refusal:
    """A name that `weights_only=True` refuses.

    Attributes:
        name: with its module, such as `pathlib.PosixPath`.
        reason: one sentence.
        system: True if the file can reach the operating system or run any code with it.
    """

    name: str
    reason: str
    system: bool

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {"name": self.name, "reason": self.reason, "system": self.system}


@dataclass(frozen=True)
class Safety:
    """What loading the file would do.

    Attributes:
        weights_only: True if `torch.load(weights_only=True)` loads it as it is.
        taken: names that it imports and that are on PyTorch's own list.
        refused: names that it imports and that are not.
        obstacles: what no list of names can help, one sentence each.
        allow_list: the fewest names to give to `torch.serialization.add_safe_globals` so that it loads; None if there
            is no such list. Whoever adds a name trusts it: its code runs.
    """

    weights_only: bool
    taken: list[str] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    obstacles: list[str] = field(default_factory=list)
    allow_list: list[str] | None = None

    @property
    def system(self) -> list[Refusal]:
        """The refused names that reach for the system: the file is an attack, or was made very carelessly."""
        return [refusal for refusal in self.refused if refusal.system]

    def to_dict(self) -> dict[str, Any]:
        """weights_only, taken, refused, obstacles and allow_list, as JSON takes them."""
        return {
            "weights_only": self.weights_only,
            "taken": self.taken,
            "refused": [refusal.to_dict() for refusal in self.refused],
            "obstacles": self.obstacles,
            "allow_list": self.allow_list,
        }


def judge(contents: Contents) -> Safety:
    """Follow PyTorch's unpickler through what the file's pickle does."""
    if contents.trace is None:
        return Safety(True, allow_list=[])
    names = [name for name in dict.fromkeys(contents.trace.globals) if not _belongs_to_format(contents, name)]
    taken = [str(name) for name in names if str(name) in ALLOWED]
    refused = [_refusal(name) for name in names if str(name) not in ALLOWED]
    obstacles = _obstacles(contents, names)
    allow_list = None if obstacles else [refusal.name for refusal in refused] + _hidden_types(contents, names)
    return Safety(not refused and not obstacles, taken, refused, obstacles, allow_list)


def _belongs_to_format(contents: Contents, name: Global) -> bool:
    """True for what makes up every sharded checkpoint's `.metadata`, and for the classes a TorchScript file brings."""
    own = {
        Format.SHARDED: ("torch.distributed.checkpoint.",),
        Format.TORCHSCRIPT: ("__torch__.", "torch.jit._pickle"),
    }
    return name.module.startswith(own.get(contents.format, ()))


def _refusal(name: Global) -> Refusal:
    if reaches_system(name):
        how = "calls" if name.uses & {"called", "made"} else "names"
        reason = f"the file {how} {name}, which can run commands, open files or load more code: do not load it."
        return Refusal(str(name), reason, True)
    package = name.module.partition(".")[0]
    if package == "numpy":
        reason = "a numpy number or array; PyTorch takes only its own tensors and plain numbers."
    elif package == "torch":
        reason = "a part of PyTorch that is neither a tensor nor a type of one."
    elif package in ("pathlib", "collections", "datetime", "enum", "argparse", "functools", "builtins", "typing"):
        reason = "from Python itself, and not one of the few plain types that PyTorch takes."
    elif package == "__main__":
        reason = "a class from the script that saved it, which a loader would have to define again."
    else:
        reason = f"a class or function of the package '{package}', whose code would run."
    return Refusal(str(name), reason, False)


def reaches_system(name: Global) -> bool:
    """True if a name gives the file a way to run commands or code, or to touch files and sockets."""
    parts = f"{name.module}.{name.name}".split(".")
    if any(".".join(parts[:length]) in _SYSTEM_MODULES for length in range(1, len(parts) + 1)):
        return True
    # "torch", "serialization.os.system": a dotted name walks through a module to what that module imported
    walked = name.name.split(".") if "." in name.name else []
    return any(part in _SYSTEM_MODULES or part.startswith("__") for part in walked)


def _obstacles(contents: Contents, names: list[Global]) -> list[str]:
    """Why it would not load whatever is on the list."""
    trace = contents.trace
    assert trace is not None
    found = []
    if contents.format is Format.TORCHSCRIPT:
        found.append(
            "it is TorchScript, a program: `torch.load(weights_only=True)` refuses it, `torch.jit.load` runs it."
        )
    if contents.format is Format.PICKLE:
        found.append("it is a pickle without PyTorch's format around it, which `torch.load` does not read.")
    for name in names:
        if name.module in _NEVER_ALLOWED:
            found.append(f"{name}: PyTorch blocks the module '{name.module}' whatever is on the list.")
        elif "filled" in name.uses and name not in (
            Global("collections", "OrderedDict"),
            Global("collections", "Counter"),
        ):
            found.append(
                f"{name} is filled item by item, which PyTorch allows for list, dict, OrderedDict and Counter only."
            )
    if contents.format is Format.SHARDED:
        return ["it is a folder for `torch.distributed.checkpoint`, which unpickles '.metadata' without such a check."]
    if trace.named_classes:
        found.append("it names classes by persistent id, as the old format does for an `nn.Module`: they are refused.")
    foreign = trace.opcodes - _OPCODES_TAKEN
    if foreign:
        how = f"protocol {trace.protocol}" if trace.protocol > 2 else "instructions"
        found.append(f"it uses pickle {how} that `weights_only=True` does not know; `torch.save` writes protocol 2.")
    return found


def _hidden_types(contents: Contents, names: list[Global]) -> list[str]:
    """Types that the pickle does not name and PyTorch asks for all the same.

    `numpy.dtype("f4")` makes an object of the class `numpy.dtypes.Float32DType`, and that class must be on the list
    before its state may be set.
    """
    codes = contents.trace.numpy_types if contents.trace else []
    known = [_NUMPY_TYPES.get(code.lstrip("<>|=")) for code in codes]
    return [f"numpy.dtypes.{name}DType" for name in dict.fromkeys(known) if name]
