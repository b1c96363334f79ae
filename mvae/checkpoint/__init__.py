"""What is inside a PyTorch or Lightning checkpoint, read without torch and without running anything in it.

`inspect(path)` looks into a checkpoint; `read(path)` gives just its tree of plain Python values. The names are listed
in `__init__.pyi`; importing this package imports none of them, and neither torch nor lightning nor numpy nor rich.

The rooms, each of which imports only from those before it:

    files → pickled → formats → report → drawing → inspection → tools → with_torch
"""

from mvae._lazy import lazy_names

__getattr__, __all__ = lazy_names(__name__, __file__)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
