"""What is inside a PyTorch or Lightning checkpoint, read without torch and without running anything in it.

`inspect(path)` looks into a checkpoint; `read(path)` gives just its tree of plain Python values. Importing this package
imports neither torch nor lightning nor numpy; the names that need them are looked up when they are first used.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING

from mvae._lazy import lazy_exports
from mvae.checkpoint.errors import CheckpointError, CheckpointNotFoundError
from mvae.checkpoint.inspect import CheckpointFile, inspect
from mvae.checkpoint.reader import Contents, read
from mvae.checkpoint.values import Global, Object, Storage, Tensor

if TYPE_CHECKING:
    from mvae.checkpoint.diff import Difference, diff
    from mvae.checkpoint.durable import CheckpointNotSavedError
    from mvae.checkpoint.export import Export, export
    from mvae.checkpoint.figure import byte_budget_figure
    from mvae.checkpoint.latest import get_latest_checkpoint
    from mvae.checkpoint.load import load
    from mvae.checkpoint.realign import realign
    from mvae.checkpoint.resume import ExactResume
    from mvae.checkpoint.salvage import Salvage, salvage
    from mvae.checkpoint.save import DurableCheckpointIO
    from mvae.checkpoint.verify import Verification, verify

__all__ = [
    "CheckpointError",
    "CheckpointFile",
    "CheckpointNotFoundError",
    "CheckpointNotSavedError",
    "Contents",
    "Difference",
    "DurableCheckpointIO",
    "ExactResume",
    "Export",
    "Global",
    "Object",
    "Salvage",
    "Storage",
    "Tensor",
    "Verification",
    "byte_budget_figure",
    "diff",
    "export",
    "get_latest_checkpoint",
    "inspect",
    "load",
    "read",
    "realign",
    "salvage",
    "verify",
]

_LAZY = {
    "CheckpointNotSavedError": ".durable",
    "Difference": ".diff",
    "DurableCheckpointIO": ".save",
    "ExactResume": ".resume",
    "Export": ".export",
    "Salvage": ".salvage",
    "Verification": ".verify",
    "byte_budget_figure": ".figure",
    "diff": ".diff",
    "export": ".export",
    "get_latest_checkpoint": ".latest",
    "load": ".load",
    "realign": ".realign",
    "salvage": ".salvage",
    "verify": ".verify",
}
"""Name → the module of this package that has it. To add one: here, in `__all__`, and under `TYPE_CHECKING`."""


__getattr__ = lazy_exports(__name__, _LAZY)


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_LAZY))


class _Package(ModuleType):
    """Importing the module `load` sets `load` on its package, and must not hide the function of that name."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (isinstance(value, ModuleType) and name in __all__):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
