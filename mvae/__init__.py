"""What is inside a PyTorch Lightning checkpoint: a Mult-VAE recommender and the tools to take its file apart.

The names are listed in `__init__.pyi`; a name's module is imported when the name is first used.
"""

from mvae._lazy import lazy_names

__version__ = "0.1.0"
__getattr__, __all__ = lazy_names(__name__, __file__)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
