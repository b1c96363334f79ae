"""How a difference is told."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from mvae.checkpoint import diff, inspect
from mvae.checkpoint.tools.value_changes import ABSENT


def training(steps: int = 2) -> dict[str, Any]:
    """A Lightning-like checkpoint after some steps of Adam."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.Linear(4, 3))
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.randn(2, 6)).square().sum().backward()
        optimizer.step()
    return {
        "epoch": steps,
        "state_dict": model.state_dict(),
        "optimizer_states": [optimizer.state_dict()],
        "callbacks": {"EarlyStopping": {"best_score": torch.tensor(1.0 / steps), "wait_count": 0}},
        "hyper_parameters": {"lr": 0.001, "hidden_dims": [600, 200], "nan": math.nan},
        "item_ids": list(range(100)),
    }


@pytest.fixture
def save(tmp_path: Path) -> Any:
    """Saves a value under a new name and gives its path."""

    def save(value: Any, **options: Any) -> Path:
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.ckpt"
        torch.save(value, path, **options)
        return path

    return save


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
