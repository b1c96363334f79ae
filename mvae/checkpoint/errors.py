"""The errors this package raises about a file."""


class CheckpointError(ValueError):
    """A file cannot be read as a checkpoint.

    The message is plain sentences: what was found, what was expected and, where there is something to do,
    what to do.
    """


class CheckpointNotFoundError(CheckpointError, FileNotFoundError):
    """There is no such file or folder, or no checkpoint in the folder."""
