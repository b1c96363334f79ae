"""The errors this package raises on bad input. Each message says what was found, what was expected, what to do."""

from __future__ import annotations

from mvae.text import printable

SALVAGE = " What is left can be saved with `mvae salvage`."
"""Said of a file that is cut off."""


class DataError(ValueError):
    """Ratings that cannot be read, fetched or split as asked."""


class CheckpointError(ValueError):
    """A file cannot be read as a checkpoint.

    The message is plain sentences: what was found, what was expected and, where there is something to do,
    what to do.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class UnsupportedFileError(CheckpointError):
    """A file of a kind that is not read, such as an encrypted zip. Nothing says that it is damaged."""


class NothingToSaveError(CheckpointError):
    """A damaged file holds nothing that could be saved."""


class CheckpointNotFoundError(CheckpointError, FileNotFoundError):
    """There is no such file or folder, or no checkpoint in the folder."""


class CheckpointNotSavedError(CheckpointError, OSError):
    """A file could not be written, and what stood under its name stands; or the disk did not confirm the new one."""
