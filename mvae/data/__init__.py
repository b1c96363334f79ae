"""Ratings → :class:`Interactions` (CSR matrix + item vocabulary) → :class:`InteractionsDataModule`."""

from .._lazy import lazy_exports

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..errors import DataError
    from .datamodule import InteractionsDataModule
    from .interactions import Interactions
    from .loader import CSRLoader
    from .movielens import load_movielens
    from .ratings import read_ratings
    from .synthetic import synthetic

__all__ = [
    "CSRLoader",
    "DataError",
    "Interactions",
    "InteractionsDataModule",
    "load_movielens",
    "read_ratings",
    "synthetic",
]

__getattr__ = lazy_exports(
    __name__,
    {
        "CSRLoader": ".loader",
        "DataError": "..errors",
        "Interactions": ".interactions",
        "InteractionsDataModule": ".datamodule",
        "load_movielens": ".movielens",
        "read_ratings": ".ratings",
        "synthetic": ".synthetic",
    },
)
