"""What is inside a PyTorch or Lightning checkpoint, read without torch and without running anything in it.

`read(path)` gives the whole file as plain Python values. Importing this package imports neither torch nor
lightning; the names that need them are looked up when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from mvae.checkpoint.errors import CheckpointError
from mvae.checkpoint.reader import Contents, read

if TYPE_CHECKING:
    from mvae.checkpoint.values import Global, Object, Storage, Tensor

__all__ = ["CheckpointError", "Contents", "Global", "Object", "Storage", "Tensor", "read"]

_LAZY = {
    "Global": "values",
    "Object": "values",
    "Storage": "values",
    "Tensor": "values",
}
"""Name → the module of this package that has it."""


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_LAZY))
