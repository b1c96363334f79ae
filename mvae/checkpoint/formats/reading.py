"""From a path to a plain tree: the one function that the rest of the package starts from.

    contents = read("last.ckpt")
    contents.tree["epoch"]                                   # plain Python
    contents.tree["state_dict"]["encoder.0.weight"].shape    # a Tensor; its values stay in the file
    contents.tree["callbacks"]["ModelCheckpoint{…}"]["best_model_path"]

Neither torch nor numpy is imported, and nothing in the file is imported or called.
"""

from __future__ import annotations

import os

from mvae.checkpoint.files.source import Input, Source
from mvae.checkpoint.formats.contents import Contents
from mvae.checkpoint.formats.one_file import read_source
from mvae.checkpoint.pickled.limits import DEFAULT_LIMITS, Limits


def read(path: Input, limits: Limits = DEFAULT_LIMITS) -> Contents:
    """Read a checkpoint of any of the kinds in `Format`, without running anything in it.

    Args:
        path: a file, a folder of a sharded checkpoint, or the bytes of a file.
        limits: how much a pickle may cost before it is refused.

    Raises:
        CheckpointError: not a checkpoint, damaged, cut off, or made to do harm; the message says which.
    """
    if not isinstance(path, (bytes, bytearray, memoryview)) and os.path.isdir(path):
        from mvae.checkpoint.formats.folders import read_folder  # here, as most checkpoints are files

        return read_folder(os.fspath(path), limits)
    return read_source(Source.open(path), limits)
