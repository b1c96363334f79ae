"""Import a package's names when they are first used (PEP 562).

``import mvae.checkpoint`` must work, and be quick, where torch is not even installed; ``from mvae import MultiVAE``
must work too. So a package says where its names live, and Python asks for them one by one.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any


def lazy_exports(package: str, homes: dict[str, str]) -> Callable[[str], Any]:
    """A module-level ``__getattr__`` for ``package``: name → the module it is defined in, relative to the package."""

    def __getattr__(name: str) -> Any:  # noqa: N807
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(homes[name], package), name)
        setattr(sys.modules[package], name, value)
        return value

    return __getattr__
