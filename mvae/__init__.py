"""What is inside a PyTorch Lightning checkpoint: a Mult-VAE recommender and the tools to take its file apart.

The names are listed in `__init__.pyi`; a name's module is imported when the name is first used.
"""

import os
import sys
from typing import Any

from mvae._lazy import lazy_names

__version__ = "0.1.0"
_named, __all__ = lazy_names(__name__, __file__)


def __getattr__(name: str) -> Any:
    # torch's threads read this when torch is imported: those that wait for each other sleep. By default they spin, and
    # beside another busy process a training of seconds takes a minute. What is set already stays.
    if "torch" not in sys.modules:
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    return _named(name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
