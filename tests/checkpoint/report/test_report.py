"""All there is to say about a checkpoint: its keys, its tensors by name, what they share."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch

from mvae.checkpoint import CheckpointError, inspect


def saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def test_keys_are_in_the_order_of_the_file(zoo: dict[str, Path]) -> None:
    expected = "epoch global_step pytorch-lightning_version state_dict loops callbacks optimizer_states lr_schedulers"
    assert inspect(zoo["lightning"]).keys[:8] == expected.split()


def test_a_tensor_is_found_by_its_full_name_or_without_state_dict(zoo: dict[str, Path]) -> None:
    file = inspect(zoo["lightning"])
    assert file.tensor("state_dict.body.0.weight") is file.tensor("body.0.weight")
    assert file.tensor("optimizer_states.0.state.0.exp_avg").shape == (4, 8)
    with pytest.raises(CheckpointError, match=r"no tensor named 'body\.0\.wieght'\. Did you mean '.*body\.0\.weight'"):
        file.tensor("body.0.wieght")


def test_names_are_unique() -> None:
    one, two = torch.zeros(1), torch.ones(1)
    file = inspect(saved({"a.b": one, "a": {"b": two}}))
    names = [entry.name for entry in file.tensors]
    assert len(set(names)) == 2
    assert [file.array(name)[0] for name in names] == [0, 1]


def test_shared_storages_are_shown_as_shared() -> None:
    weight = torch.ones(4, 4)
    file = inspect(saved({"state_dict": {"in": weight, "out": weight, "row": weight[1], "own": torch.ones(2)}}))
    assert list(file.shared.values()) == [["state_dict.in", "state_dict.out", "state_dict.row"]]
    assert file.bytes["weights"] == 64 + 8


def test_a_file_of_eighty_thousand_tensors_is_no_trouble() -> None:
    file = inspect(saved({"state_dict": {f"layer.{i}": torch.ones(1) for i in range(2000)}}))
    assert len(file.tensors) == 2000
    assert file.bytes["weights"] == 8000
