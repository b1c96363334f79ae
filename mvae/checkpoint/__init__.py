"""What is inside a PyTorch or Lightning checkpoint, read without torch and without running anything in it.

`inspect(path)` looks into a checkpoint; `read(path)` gives just its tree of plain Python values. Importing this package
imports neither torch nor lightning nor numpy; the names that need them are looked up when they are first used.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from mvae.checkpoint.errors import CheckpointError, CheckpointNotFoundError
from mvae.checkpoint.inspect import CheckpointFile, inspect
from mvae.checkpoint.reader import Contents, read
from mvae.checkpoint.values import Global, Object, Storage, Tensor

if TYPE_CHECKING:
    from mvae.checkpoint.durable import CheckpointNotSavedError
    from mvae.checkpoint.figure import byte_budget_figure
    from mvae.checkpoint.latest import get_latest_checkpoint
    from mvae.checkpoint.load import load
    from mvae.checkpoint.realign import realign
    from mvae.checkpoint.resume import ExactResume
    from mvae.checkpoint.save import DurableCheckpointIO

__all__ = [
    "CheckpointError",
    "CheckpointFile",
    "CheckpointNotFoundError",
    "CheckpointNotSavedError",
    "Contents",
    "DurableCheckpointIO",
    "ExactResume",
    "Global",
    "Object",
    "Storage",
    "Tensor",
    "byte_budget_figure",
    "get_latest_checkpoint",
    "inspect",
    "load",
    "read",
    "realign",
]

_LAZY = {
    "CheckpointNotSavedError": "durable",
    "DurableCheckpointIO": "save",
    "ExactResume": "resume",
    "byte_budget_figure": "figure",
    "get_latest_checkpoint": "latest",
    "load": "load",
    "realign": "realign",
}
"""Name → the module of this package that has it. To add one: here, in `__all__`, and under `TYPE_CHECKING`."""


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_LAZY))


class _Package(ModuleType):
    """Importing the module `load` sets `load` on its package, and must not hide the function of that name."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (isinstance(value, ModuleType) and name in __all__):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
