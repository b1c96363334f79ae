"""A zip without its directory: what is said of it."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest
import torch
from hostile_files import checkpoint, pickle_of

from mvae.checkpoint import CheckpointError, read, salvage

GOOD = pickle_of(b"}X\x01\x00\x00\x00aK\x01s")


def test_a_file_cut_off_anywhere_says_so(zoo: dict[str, Path]) -> None:
    raw = zoo["lightning"].read_bytes()
    for percent in range(1, 100):
        with pytest.raises(CheckpointError, match="cut off"):
            read(raw[: len(raw) * percent // 100])


def test_what_can_be_saved_of_a_file_that_is_cut_off_is_said_where_it_is_so() -> None:
    buffer = io.BytesIO()
    torch.save({"w": torch.randn(1000), "v": torch.randn(1000)}, buffer)
    raw = buffer.getvalue()
    for length in range(50, len(raw) - 600, 200):
        with pytest.raises(CheckpointError) as found:
            read(raw[:length])
        try:
            salvage(raw[:length], io.BytesIO())
            saved = True
        except CheckpointError:
            saved = False
        assert ("What is left can be saved" in str(found.value)) == saved


def test_of_a_zip_that_never_was_a_checkpoint_nothing_is_promised() -> None:
    """`policy_cut.zip`."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("data", b"{}")
        archive.writestr("policy.pth", checkpoint(GOOD, {"archive/data/1": bytes(20_000)}))
    with pytest.raises(CheckpointError, match="begins with b'data', as no checkpoint"):
        read(buffer.getvalue()[:10_000])
