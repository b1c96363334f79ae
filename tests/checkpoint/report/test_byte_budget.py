"""Where the bytes of a file are: every one under a heading."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import torch
from torch import nn

from mvae.checkpoint import inspect


def saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def test_a_storage_saved_on_its_own_is_counted() -> None:
    file = inspect(saved({"raw": torch.ones(10).untyped_storage()}))
    assert file.bytes["raw"] == 40
    assert sum(file.bytes.values()) == file.size


def test_weights_buffers_and_each_of_the_moments_have_a_heading() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    found = inspect(saved({"state_dict": model.state_dict(), "optimizer_states": [optimizer.state_dict()]})).bytes
    numbers = sum(parameter.numel() for parameter in model.parameters())
    assert found["weights"] + found.get("buffers", 0) == 4 * numbers + 4 * 8 + 8  # of BatchNorm: two means, a count
    assert found["Adam exp_avg"] == found["Adam exp_avg_sq"] == 4 * numbers


def test_two_optimizers_have_a_heading_each() -> None:
    states = []
    for kind in (torch.optim.Adam, torch.optim.RMSprop):
        layer = nn.Linear(2, 2)
        optimizer = kind(layer.parameters())
        layer(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        states.append(optimizer.state_dict())
    found = inspect(saved({"optimizer_states": states})).bytes
    assert {"Adam[0] exp_avg", "RMSprop[1] square_avg"} <= set(found)


def test_a_storage_that_several_share_counts_once_and_the_largest_stands_first() -> None:
    flat = torch.ones(1000)
    file = inspect(saved({"state_dict": {"a": flat, "b": flat[:10]}, "mine": flat, "other": torch.ones(5)}))
    assert file.bytes["weights"] == 4000
    assert "mine" not in file.bytes
    assert list(file.bytes.values()) == sorted(file.bytes.values(), reverse=True)
    assert sum(file.bytes.values()) == file.size


def test_a_storage_that_nothing_refers_to_is_named() -> None:
    whole = saved({"a": torch.ones(3)})
    more = io.BytesIO(whole)
    with zipfile.ZipFile(more, "a") as file:
        root = file.namelist()[0].partition("/")[0]
        file.writestr(f"{root}/data/77", bytes(123))
        file.writestr(f"{root}/notes.txt", b"12345")
    found = inspect(more.getvalue())
    assert found.bytes["storages nothing refers to"] == 123
    assert found.bytes["other members"] == 5
    assert sum(found.bytes.values()) == found.size
