"""The public names of the package, each once: see `mvae._lazy`."""

from mvae.data.datamodule import InteractionsDataModule as InteractionsDataModule
from mvae.data.generated import synthetic as synthetic
from mvae.data.interactions import Interactions as Interactions
from mvae.data.loader import CSRLoader as CSRLoader
from mvae.data.movielens import load_movielens as load_movielens
from mvae.data.ratings import read_ratings as read_ratings
from mvae.data.sequences import SequencesDataModule as SequencesDataModule
from mvae.errors import DataError as DataError
