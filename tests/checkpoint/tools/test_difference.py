"""How a difference is told."""

from __future__ import annotations

from typing import Any

import torch
from compared import training

from mvae.checkpoint import diff, inspect
from mvae.checkpoint.tools.value_changes import ABSENT


def test_added_and_removed(save: Any) -> None:
    found = diff(save(training()), save({"state_dict": training()["state_dict"], "new": {"a": {}}}))
    changes = {change.name: change for change in found.values}
    assert changes["epoch"].after is ABSENT
    assert changes["new"].before is ABSENT
    assert len(found.only_a) == 13
    assert "13 only in A" in str(found)


def test_it_says_that_stored_checksums_were_compared_and_no_data(save: Any) -> None:
    path = save(training())
    raw = bytearray(path.read_bytes())
    raw[inspect(path).tensor("0.weight").file_offset or 0] ^= 1
    found = diff(path, bytes(raw))
    assert found.same
    assert "by their stored checksums; the data was not read (`mvae verify` does)" in str(found)
    assert found.to_dict()["tensors"]["equal_by_stored_checksums"] == 17
    different = diff(save({"w": torch.ones(3)}), save({"w": torch.zeros(3)}))
    assert "stored checksums" not in str(different)
