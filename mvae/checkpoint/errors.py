"""The errors this package raises about a file."""

from mvae.checkpoint.text import printable

SALVAGE = " What is left can be saved with `mvae salvage`."
"""Said of a file that is cut off."""


class CheckpointError(ValueError):
    """A file cannot be read as a checkpoint.

    The message is plain sentences: what was found, what was expected and, where there is something to do,
    what to do.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class CheckpointNotFoundError(CheckpointError, FileNotFoundError):
    """There is no such file or folder, or no checkpoint in the folder."""
