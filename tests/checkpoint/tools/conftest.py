"""What the tests of the tools share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch


@pytest.fixture
def save(tmp_path: Path) -> Any:
    """Saves a value under a new name and gives its path."""

    def save(value: Any, **options: Any) -> Path:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.ckpt"
        torch.save(value, path, **options)
        return path

    return save
