"""`inspect(path)`: all there is to know about a checkpoint, without torch and without running anything in it.

file = inspect("last.ckpt")
file.keys                        # ['epoch', 'global_step', …]
file.tree["hyper_parameters"]    # plain Python
file.tensors[0].name             # 'state_dict.encoder.0.weight'
file.array("encoder.0.weight")   # a numpy view of the file
file.bytes                       # {'weights': 33988028, 'Adam exp_avg': 33988028, …}, sums to file.size
file.facts, file.safety          # what the numbers give away; what loading it would run
"""

from __future__ import annotations

from typing import Any

from mvae.checkpoint.files.source import Input
from mvae.checkpoint.formats.reading import read
from mvae.checkpoint.pickled.limits import DEFAULT_LIMITS, Limits, collector_held_off
from mvae.checkpoint.report.report import Report


class CheckpointFile(Report):
    """A report that draws itself: as a tree in the terminal, and as one to unfold in a notebook."""

    def __rich__(self) -> Any:
        from mvae.checkpoint.drawing.terminal import rich_tree

        return rich_tree(self)

    def _repr_html_(self) -> str:
        from mvae.checkpoint.drawing.notebook import page

        return page(self)


def inspect(path: Input, *, batch_size: int | None = None, limits: Limits = DEFAULT_LIMITS) -> CheckpointFile:
    """Look into a checkpoint that PyTorch, Lightning or safetensors wrote; nothing in it is run.

    Args:
        path: a file, the folder of a sharded checkpoint, or the bytes of a file.
        batch_size: of the training, for the facts that need it, if the file does not say.
        limits: how much a pickle may cost before it is refused.

    Raises:
        CheckpointError: not a checkpoint, damaged, cut off, or made to do harm; the message says which.
    """
    with collector_held_off():
        file = CheckpointFile(read(path, limits), batch_size)
        file.tensors  # noqa: B018  listing them makes many small objects, so it is done here
        return file
