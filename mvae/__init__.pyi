"""The public names of the package, each once: see `mvae._lazy`."""

from mvae.baselines import EASE as EASE
from mvae.baselines import Popularity as Popularity
from mvae.bert4rec import BERT4Rec as BERT4Rec
from mvae.checkpoint.tools.latest import get_latest_checkpoint as get_latest_checkpoint
from mvae.checkpoint.tools.newest import get_newest_checkpoint as get_newest_checkpoint
from mvae.checkpoint.with_torch.loading import load as load
from mvae.data import Interactions as Interactions
from mvae.data import InteractionsDataModule as InteractionsDataModule
from mvae.data import SequencesDataModule as SequencesDataModule
from mvae.data import load_movielens as load_movielens
from mvae.data import read_ratings as read_ratings
from mvae.data import synthetic as synthetic
from mvae.errors import CheckpointError as CheckpointError
from mvae.errors import DataError as DataError
from mvae.metrics import evaluate as evaluate
from mvae.metrics import hit_rate_at_k as hit_rate_at_k
from mvae.metrics import ndcg_at_k as ndcg_at_k
from mvae.metrics import recall_at_k as recall_at_k
from mvae.model import MultiVAE as MultiVAE
from mvae.training import FitResult as FitResult
from mvae.training import fit as fit

__version__: str
