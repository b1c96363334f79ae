"""One set of real checkpoints for all tests of this folder: read them, change nothing in them."""

from __future__ import annotations

from pathlib import Path

import pytest
from real_files import make_zoo


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Name → path of a real checkpoint, made once."""
    return make_zoo(tmp_path_factory.mktemp("zoo"))
