"""One file, put together: which kind of zip it is, and what it lacks."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch
from hostile_files import checkpoint, pickle_of
from torch import nn

from mvae.checkpoint import CheckpointError, inspect, read
from mvae.checkpoint.formats.detect import Format


def test_torchscript_is_recognised(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(nn.Sequential(nn.Linear(3, 4), nn.ReLU())), tmp_path / "x.pt")
    file = inspect(tmp_path / "x.pt")
    assert file.format is Format.TORCHSCRIPT
    assert [entry.tensor.shape for entry in file.tensors] == [(4, 3), (4,)]
    assert file.bytes["code"] > 0
    assert sum(file.bytes.values()) == file.size
    assert "TorchScript" in file.safety.obstacles[0]


def test_another_zip_says_what_is_in_it(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("readme.txt", "x")
    with pytest.raises(CheckpointError, match=r"without a 'data.pkl'.*readme\.txt"):
        read(tmp_path / "x.zip")


def test_a_storage_that_is_not_there_says_so() -> None:
    from hostile_files import tensor

    raw = checkpoint(pickle_of(tensor())).replace(b"archive/data/0", b"archive/data/7")
    with pytest.raises(CheckpointError, match="no such member"):
        read(raw)
