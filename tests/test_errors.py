"""The errors: who catches which, and that a file's text in a message is fit to show."""

from __future__ import annotations

import pytest

from mvae import errors


@pytest.mark.parametrize(
    ("error", "caught_as"),
    [
        (errors.CheckpointNotFoundError, FileNotFoundError),
        (errors.CheckpointNotSavedError, OSError),
        (errors.UnsupportedFileError, ValueError),
        (errors.NothingToSaveError, ValueError),
    ],
)
def test_each_is_caught_as_a_checkpoint_error_and_as_pythons_own(
    error: type[errors.CheckpointError], caught_as: type[Exception]
) -> None:
    for kind in (errors.CheckpointError, caught_as):
        with pytest.raises(kind, match=r"^what was found$"):
            raise error("what was found")


def test_a_disk_that_is_full_and_data_that_is_wrong_are_told_apart() -> None:
    assert not issubclass(errors.DataError, errors.CheckpointError)
    assert not issubclass(errors.UnsupportedFileError, OSError)


@pytest.mark.parametrize("error", [errors.CheckpointError, errors.CheckpointNotFoundError])
def test_control_characters_of_a_name_are_written_out(error: type[errors.CheckpointError]) -> None:
    assert str(error("no tensor '\x1b[2J\nx'")) == r"no tensor '\x1b[2J\nx'"
