"""What is inside a PyTorch Lightning checkpoint: a Mult-VAE recommender and the tools to take its file apart."""

from ._lazy import lazy_exports

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .baselines import EASE, Popularity
    from .checkpoint import CheckpointError
    from .checkpoint.latest import get_latest_checkpoint
    from .checkpoint.load import load
    from .data import (
        DataError,
        Interactions,
        InteractionsDataModule,
        load_movielens,
        read_ratings,
        synthetic,
    )
    from .metrics import evaluate, ndcg_at_k, recall_at_k
    from .model import MultiVAE
    from .training import FitResult, fit

__version__ = "0.1.0"
__all__ = [
    "EASE",
    "CheckpointError",
    "DataError",
    "FitResult",
    "Interactions",
    "InteractionsDataModule",
    "MultiVAE",
    "Popularity",
    "evaluate",
    "fit",
    "get_latest_checkpoint",
    "load",
    "load_movielens",
    "ndcg_at_k",
    "read_ratings",
    "recall_at_k",
    "synthetic",
]

__getattr__ = lazy_exports(
    __name__,
    {
        "EASE": ".baselines",
        "CheckpointError": ".checkpoint",
        "DataError": ".errors",
        "FitResult": ".training",
        "Interactions": ".data",
        "InteractionsDataModule": ".data",
        "MultiVAE": ".model",
        "Popularity": ".baselines",
        "evaluate": ".metrics",
        "fit": ".training",
        "get_latest_checkpoint": ".checkpoint.latest",
        "load": ".checkpoint.load",
        "load_movielens": ".data",
        "ndcg_at_k": ".metrics",
        "read_ratings": ".data",
        "recall_at_k": ".metrics",
        "synthetic": ".data",
    },
)
