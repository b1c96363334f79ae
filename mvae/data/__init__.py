"""Ratings → `Interactions` (CSR matrix + item vocabulary) → `InteractionsDataModule`."""

from mvae._lazy import lazy_names

__getattr__, __all__ = lazy_names(__name__, __file__)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
