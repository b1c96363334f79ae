"""What the functions named in a checkpoint would have made, worked out from their arguments; none is called.

PyTorch writes a tensor as a call of `torch._utils._rebuild_tensor_v2`, numpy an array as a call of
`_reconstruct`, and Python a `set` as a call of `builtins.set`. Those that mean plain data are understood
here, by name; every other call becomes an `Object`. Sources: `torch/_utils.py`, `torch/_tensor.py`, numpy's
`multiarray`, CPython's `copyreg`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from mvae.checkpoint.pickled import dtypes
from mvae.checkpoint.pickled.values import (
    MAX_DIMS,
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
from mvae.errors import CheckpointError

_NUMPY_NAMES = {code: name for name, code in dtypes.NUMPY.items() if not name.startswith("q")}
Builder = Callable[[Global, tuple[Any, ...]], Any]
_MAX_INDEX = 2**63 - 1


def call(function: Any, args: Any) -> Any:
    """What the file says `function(*args)` is.

    Raises:
        CheckpointError: a call that means data, with arguments that contradict each other.
    """
    if not isinstance(args, tuple):
        raise CheckpointError(f"the pickle calls {function!r} with {type(args).__name__} where arguments should be.")
    if isinstance(function, Global) and function.builder is not None:
        try:
            return function.builder(function, args)
        except CheckpointError:
            raise
        except (TypeError, ValueError, KeyError, IndexError, AttributeError, OverflowError, struct.error):
            pass  # not the arguments PyTorch, numpy or Python write: left as it stands, like any foreign call
    return Object(function, args)


def filled(function: Global, items: Any) -> tuple[Any, list[Any], list[Any] | None] | None:
    """An empty dict or set and what `function(items)` puts into it, for `KeyGuard` to do; None for any other call."""
    if function.builder is _dict and function.name != "defaultdict":
        if isinstance(items, dict):
            return ObjectDict(function), list(items), list(items.values())
        pairs = items if function.name == "OrderedDict" and type(items) in (list, tuple) else None
        if pairs and all(type(pair) in (list, tuple) and len(pair) == 2 for pair in pairs):
            return ObjectDict(function), [key for key, _ in pairs], [value for _, value in pairs]
    if function.builder is _empty and function.name != "bytes" and isinstance(items, (list, tuple, set, frozenset)):
        return set(), list(items), None
    return None


def new(cls: Any, args: Any, kwargs: Any = None) -> Any:
    """What the file says `cls.__new__(cls, *args, **kwargs)` is."""
    if not isinstance(args, tuple) or not (kwargs is None or isinstance(kwargs, dict)):
        raise CheckpointError(f"the pickle makes a {cls!r} from something that is not arguments.")
    if isinstance(cls, Global) and cls.builder is _dict:
        return ObjectDict(cls)
    return Object(cls, args, kwargs or None)


# --- tensors


def dtype_name(value: Any) -> str:
    """`float32` for the global `torch.float32`."""
    name = value.name if isinstance(value, Global) and value.module == "torch" else None
    if name not in dtypes.ITEMSIZE:
        raise TypeError(f"{value!r} is not a torch dtype")
    return str(name)


def _view(
    storage: Storage, dtype: str, offset: Any, shape: Any, stride: Any, requires_grad: Any, attributes: Any = None
) -> Tensor:
    """A tensor that lies inside its storage; `attributes` are its conjugate and negative bits, if they are set.

    Raises:
        CheckpointError: it does not.
        TypeError: these are not a storage, shape, stride and offset.
    """
    if (type(storage), type(offset), type(shape), type(stride)) != (Storage, int, tuple, tuple):
        raise TypeError("not a tensor")
    last, count, is_possible = offset, 1, offset >= 0 and len(shape) <= MAX_DIMS
    for length, step in zip(shape, stride, strict=True) if is_possible else ():
        if type(length) is not int or type(step) is not int or length < 0 or step < 0:
            raise TypeError("not a shape")
        last += (length - 1) * step
        count *= length
    if not is_possible or count > _MAX_INDEX or last > _MAX_INDEX:
        raise CheckpointError(f"storage '{storage.key}': a tensor of shape {str(list(shape))[:80]} is not possible.")
    inside = last < storage.numel and dtype == storage.dtype  # what follows says the same, and takes longer
    if not inside and count and (last // dtypes.PACKED.get(dtype, 1) + 1) * dtypes.ITEMSIZE[dtype] > storage.nbytes:
        raise CheckpointError(
            f"a tensor of shape {list(shape)} and stride {list(stride)}, from element {offset}, reaches past "
            f"the end of storage '{storage.key}', which holds {storage.numel:,} elements. The file was "
            "changed or is damaged."
        )
    return Tensor(dtype, shape, stride, offset, storage, requires_grad is True, "Tensor", attributes or None)


def _tensor_v2(_: Global, args: tuple[Any, ...]) -> Tensor:
    storage, offset, shape, stride = args[:4]
    requires_grad, bits = args[4] if len(args) > 4 else False, args[6] if len(args) > 6 else None
    return _view(storage, storage.dtype, offset, shape, stride, requires_grad, bits)


def _tensor_v3(_: Global, args: tuple[Any, ...]) -> Tensor:
    storage, offset, shape, stride, requires_grad, _hooks, dtype = args[:7]
    bits = args[7] if len(args) > 7 else None
    return _view(storage, dtype_name(dtype), offset, shape, stride, requires_grad, bits)


def _copy(tensor: Any, kind: str, attributes: Any = None) -> Tensor:
    """The same tensor under another class; the original may be in use elsewhere in the file."""
    if not isinstance(tensor, Tensor):
        raise TypeError("not a tensor")
    both = isinstance(attributes, dict) and isinstance(tensor.attributes, dict)
    attributes = {**attributes, **tensor.attributes} if both else attributes or tensor.attributes
    return replace(tensor, kind=kind, attributes=attributes)


def _parameter(_: Global, args: tuple[Any, ...]) -> Tensor:
    tensor = _copy(args[0], "Parameter", args[3] if len(args) > 3 else None)
    tensor.requires_grad = args[1] is True
    return tensor


def _from_type(_: Global, args: tuple[Any, ...]) -> Tensor:
    function, cls, arguments, state = args
    kind = str(cls) if cls != Global("torch", "Tensor") else "Tensor"
    return _copy(call(function, arguments), kind, state)


def _sparse(_: Global, args: tuple[Any, ...]) -> Tensor:
    layout, data = args
    kind = layout.args[0].removeprefix("torch.")
    names = ("indices", "values") if kind == "sparse_coo" else ("compressed_indices", "plain_indices", "values")
    parts = dict(zip(names, data, strict=False))
    if not all(isinstance(part, Tensor) for part in parts.values()):
        raise TypeError("not a sparse tensor")
    return Tensor(parts["values"].dtype, _shape(data[len(names)]), (), 0, None, kind=kind, parts=parts)


def _quantised(_: Global, args: tuple[Any, ...]) -> Tensor:
    storage, offset, shape, stride, parameters, requires_grad = args[:6]
    tensor = _view(storage, storage.dtype, offset, shape, stride, requires_grad)
    if parameters[0].name == "per_tensor_affine":
        tensor.attributes = dict(zip(("scheme", "scale", "zero_point"), parameters, strict=True))
    else:
        tensor.attributes = {"scheme": parameters[0], "axis": parameters[3]}
        tensor.parts = {"scales": parameters[1], "zero_points": parameters[2]}
    return tensor


def _meta(_: Global, args: tuple[Any, ...]) -> Tensor:
    dtype, shape, stride, requires_grad = args
    return Tensor(dtype_name(dtype), _shape(shape), _shape(stride), 0, None, requires_grad is True, "meta")


def _wrapper(_: Global, args: tuple[Any, ...]) -> Tensor:
    cls, dtype, shape, stride, offset, _layout, _device, requires_grad = args
    return Tensor(dtype_name(dtype), _shape(shape), _shape(stride), offset, None, requires_grad is True, str(cls))


def _nested(_: Global, args: tuple[Any, ...]) -> Tensor:
    parts = dict(zip(("buffer", "sizes", "strides", "offsets"), args, strict=True))
    if not all(isinstance(part, Tensor) for part in args):
        raise TypeError("not a nested tensor")
    return Tensor(args[0].dtype, (args[1].shape[0],), (), 0, None, kind="nested", parts=parts)


def _is_shape(value: Any) -> bool:
    small = type(value) is tuple and len(value) <= MAX_DIMS
    return small and all(type(length) is int and 0 <= length <= _MAX_INDEX for length in value)


def _shape(value: Any) -> tuple[int, ...]:
    if not _is_shape(value):
        raise TypeError("not a shape")
    return tuple(value)


# --- numpy


def _numpy_dtype(_: Global, args: tuple[Any, ...]) -> NumpyDtype:
    code = args[0]
    if not isinstance(code, str) or len(code) > 32:
        raise TypeError("not a numpy type")
    return NumpyDtype(code)


def _numpy_array(_: Global, args: tuple[Any, ...]) -> NumpyArray:
    return NumpyArray(args[0])


def _numpy_scalar(_: Global, args: tuple[Any, ...]) -> NumpyScalar:
    dtype, raw = args
    if not isinstance(dtype, NumpyDtype) or not isinstance(raw, bytes) or len(raw) > 1024:
        raise TypeError("not a numpy scalar")
    name = _NUMPY_NAMES.get(dtype.code.lstrip("<>|="))
    if name is None or len(raw) != dtypes.ITEMSIZE[name]:
        return NumpyScalar(dtype, raw)
    return NumpyScalar(dtype, dtypes.scalar(name, raw, "big" if dtype.code.startswith(">") else "little"))


def _numpy_buffer(_: Global, args: tuple[Any, ...]) -> NumpyArray:
    """`_frombuffer(buffer, dtype, shape, order)`, which numpy writes under pickle protocol 5."""
    data, dtype, shape, order = args
    if not isinstance(dtype, NumpyDtype) or not isinstance(data, (bytes, bytearray, Blob)):
        raise TypeError("not a numpy array")
    return NumpyArray(Global("numpy", "ndarray"), dtype, _shape(shape), order == "F", data)


def set_numpy_state(target: NumpyArray | NumpyDtype, state: Any) -> bool:
    """Fill in what a BUILD opcode says about an array or a type. False if numpy does not write such a state."""
    if not isinstance(state, tuple) or len(state) < 5:
        return False
    if isinstance(target, NumpyDtype):
        if state[1] not in ("<", ">", "|", "="):
            return False
        target.code = state[1] + target.code.lstrip("<>|=")
        target.fields = state[4] or state[2]
        return True
    _, shape, dtype, fortran, data = state[:5]
    if len(state) != 5 or not isinstance(dtype, NumpyDtype) or not _is_shape(shape):
        return False
    target.shape, target.dtype, target.fortran, target.data = shape, dtype, fortran is True, data
    return True


# --- Python


def _dict(cls: Global, args: tuple[Any, ...]) -> ObjectDict:
    """OrderedDict(), Counter(), defaultdict(factory); for those with something in them see `filled`."""
    if args and cls.name != "defaultdict":
        raise TypeError("not a dict")
    return ObjectDict(cls, args)


def _empty(cls: Global, args: tuple[Any, ...]) -> Any:
    """`set()`, `frozenset()`, and `bytes()`, which is how protocols 0 to 2 write the empty byte string."""
    if args:
        raise TypeError("not empty")
    return {"set": set, "frozenset": frozenset, "bytes": bytes}[cls.name]()


def _encode(_: Global, args: tuple[Any, ...]) -> bytes | Blob:
    """Bytes, as pickle protocols 0 to 2 write them: text in which every character is a byte."""
    text, encoding = args
    if encoding not in ("latin1", "latin-1"):
        raise TypeError("not bytes")
    if isinstance(text, Blob):
        text.latin = True
        return text
    return str.encode(text, "latin-1")


def _bytearray(_: Global, args: tuple[Any, ...]) -> bytearray:
    if not args:
        return bytearray()
    if len(args) == 2:
        return bytearray(_encode(_, args))  # type: ignore[arg-type]
    if not isinstance(args[0], (bytes, bytearray)):
        raise TypeError("not bytes")
    return bytearray(args[0])


def _complex(_: Global, args: tuple[Any, ...]) -> complex:
    real, imaginary = args
    if type(real) is not float or type(imaginary) is not float:
        raise TypeError("not a complex number")
    return complex(real, imaginary)


def _size(_: Global, args: tuple[Any, ...]) -> tuple[int, ...]:
    return _shape(args[0] if type(args[0]) is tuple else tuple(args[0]))


def _reconstructor(_: Global, args: tuple[Any, ...]) -> Object:
    """`copyreg._reconstructor(cls, base, state)`: how protocols 0 and 1 write an object."""
    cls, base, state = args
    found = Object(cls)
    if isinstance(state, dict):
        found.entries = state
    elif isinstance(state, list):
        found.items = state
    elif state is not None:
        found.args = (state,)
    elif base != Global("builtins", "object"):
        raise TypeError("not a plain object")
    return found


def _newobj(_: Global, args: tuple[Any, ...]) -> Any:
    return new(args[0], tuple(args[1:]))


def _table() -> dict[tuple[str, ...], Builder]:
    named: dict[str, Builder] = {
        "torch._utils _rebuild_tensor": _tensor_v2,
        "torch._utils _rebuild_tensor_v2": _tensor_v2,
        "torch._utils _rebuild_tensor_v3": _tensor_v3,
        "torch._utils _rebuild_parameter": _parameter,
        "torch._utils _rebuild_parameter_with_state": _parameter,
        "torch._utils _rebuild_sparse_tensor": _sparse,
        "torch._utils _rebuild_qtensor": _quantised,
        "torch._utils _rebuild_meta_tensor_no_storage": _meta,
        "torch._utils _rebuild_wrapper_subclass": _wrapper,
        "torch._utils _rebuild_nested_tensor": _nested,
        "torch._tensor _rebuild_from_type_v2": _from_type,
        "torch Size": _size,
        "numpy dtype": _numpy_dtype,
        "collections OrderedDict": _dict,
        "collections Counter": _dict,
        "collections defaultdict": _dict,
        "builtins set": _empty,
        "builtins frozenset": _empty,
        "builtins bytearray": _bytearray,
        "builtins bytes": _empty,
        "builtins complex": _complex,
        "_codecs encode": _encode,
        "copyreg _reconstructor": _reconstructor,
        "copyreg __newobj__": _newobj,
    }
    for core in ("numpy.core", "numpy._core"):
        named[f"{core}.multiarray _reconstruct"] = _numpy_array
        named[f"{core}.multiarray scalar"] = _numpy_scalar
        named[f"{core}.numeric _frombuffer"] = _numpy_buffer
    return {tuple(name.split(" ")): builder for name, builder in named.items()}


BUILDERS = _table()
COPYING_NOTHING = {_tensor_v2, _tensor_v3}
"""Builders that take the same time and memory whatever they are given; almost all calls are theirs."""
