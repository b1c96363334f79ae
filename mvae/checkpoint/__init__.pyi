"""The public names of the package, each once: see `mvae._lazy`."""

from mvae.checkpoint.drawing.figure import byte_budget_figure as byte_budget_figure
from mvae.checkpoint.formats.contents import Contents as Contents
from mvae.checkpoint.formats.reading import read as read
from mvae.checkpoint.inspection import CheckpointFile as CheckpointFile
from mvae.checkpoint.inspection import inspect as inspect
from mvae.checkpoint.pickled.values import Global as Global
from mvae.checkpoint.pickled.values import Object as Object
from mvae.checkpoint.pickled.values import Storage as Storage
from mvae.checkpoint.pickled.values import Tensor as Tensor
from mvae.checkpoint.tools.comparing import diff as diff
from mvae.checkpoint.tools.difference import Difference as Difference
from mvae.checkpoint.tools.exporting import Export as Export
from mvae.checkpoint.tools.exporting import export as export
from mvae.checkpoint.tools.latest import get_latest_checkpoint as get_latest_checkpoint
from mvae.checkpoint.tools.salvaging import Salvage as Salvage
from mvae.checkpoint.tools.salvaging import salvage as salvage
from mvae.checkpoint.tools.verifying import Verification as Verification
from mvae.checkpoint.tools.verifying import verify as verify
from mvae.checkpoint.with_torch.loading import load as load
from mvae.checkpoint.with_torch.realigning import realign as realign
from mvae.checkpoint.with_torch.resume import ExactResume as ExactResume
from mvae.checkpoint.with_torch.saving import DurableCheckpointIO as DurableCheckpointIO
from mvae.errors import CheckpointError as CheckpointError
from mvae.errors import CheckpointNotFoundError as CheckpointNotFoundError
from mvae.errors import CheckpointNotSavedError as CheckpointNotSavedError
