"""Import a package's names when they are first used (PEP 562).

`import mvae.checkpoint` must work, and be quick, where torch is not even installed; `from mvae import MultiVAE`
must work too. So a package says in its `__init__.pyi` which module each of its names is from. Type checkers and
editors read that file as it is; Python reads it here and imports a name's module when the name is asked for.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable
from typing import Any

_LINE = re.compile(r"from (\S+) import (\w+) as \2")


def lazy_names(package: str, file: str) -> tuple[Callable[[str], Any], list[str]]:
    """The `__getattr__` and `__all__` of a package.

    Args:
        package: its `__name__`.
        file: its `__file__`; the stub `__init__.pyi` lies beside it, a line `from module import name as name`
            for each name.
    """
    with open(os.path.join(os.path.dirname(file), "__init__.pyi"), encoding="utf-8") as stub:
        homes = {name: module for module, name in _LINE.findall(stub.read())}

    def __getattr__(name: str) -> Any:  # noqa: N807
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(homes[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    return __getattr__, sorted(homes)
