"""Reading a whole checkpoint into plain Python, compared with what torch says is in it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mvae.checkpoint import CheckpointError, read


def test_importing_and_reading_needs_no_heavy_package(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    torch.save({"state_dict": {"w": torch.ones(2)}}, path)
    program = (
        "import sys; from mvae.checkpoint import read; read(sys.argv[1]).tree['state_dict']['w']; "
        "print([m for m in ('torch', 'lightning', 'pandas', 'numpy', 'rich') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_tensors_come_with_their_shape_and_values(tmp_path: Path) -> None:
    tensor = torch.arange(12.0).reshape(3, 4).t()
    torch.save({"epoch": 3, "state_dict": {"w": tensor, "half": tensor.to(torch.bfloat16)}}, tmp_path / "x.ckpt")
    tree = read(tmp_path / "x.ckpt").tree
    assert tree["epoch"] == 3
    found = tree["state_dict"]["w"]
    assert (found.dtype, found.shape, found.stride) == ("float32", (4, 3), (1, 4))
    assert (found.array() == tensor.numpy()).all()
    assert tree["state_dict"]["half"].dtype == "bfloat16"


def test_a_file_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        read(tmp_path / "missing.ckpt")
