"""What every format is read into."""

from __future__ import annotations

import io

import pytest
import torch

from mvae.checkpoint import read


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_has_checksums_only_where_torch_wrote_some(zipped: bool) -> None:
    buffer = io.BytesIO()
    torch.save({"w": torch.ones(3)}, buffer, _use_new_zipfile_serialization=zipped)
    found = read(buffer.getvalue())
    assert found.has_checksums == zipped
    assert found.size == len(buffer.getvalue())
    for record in found.records:
        record.crc32 = 0  # as `compute_crc32=False` leaves them
    assert not found.has_checksums
