"""Which optimizer a saved state belongs to, and whether it is whole."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mvae.checkpoint import inspect
from mvae.checkpoint.report.facts import Fact
from mvae.checkpoint.report.optimizers import kind


def facts(path: Any, **options: Any) -> dict[str, Fact]:
    return {fact.name: fact for fact in inspect(path, **options).facts}


def of(value: Any, **options: Any) -> dict[str, Fact]:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return facts(buffer.getvalue(), **options)


def test_several_optimizers_are_told_apart(zoo: dict[str, Path]) -> None:
    file = inspect(zoo["two optimizers"])
    assert {fact.name: fact for fact in file.facts}["optimizer"].value == ["Adam", "SGD"]
    assert {"Adam[0] exp_avg", "Adam[0] exp_avg_sq", "SGD[1] momentum_buffer"} <= set(file.bytes)


OPTIMIZERS = ["Adadelta", "Adagrad", "Adam", "Adamax", "AdamW", "ASGD", "NAdam", "RAdam", "RMSprop", "Rprop", "SGD"]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_optimizer_is_known_by_its_state(name: str) -> None:
    model = nn.Linear(2, 2)
    options = {"lr": 0.01, **({"momentum": 0.9} if name == "SGD" else {})}
    optimizer = getattr(torch.optim, name)(model.parameters(), **options)
    assert kind(optimizer.state_dict()) == name, "before the first step"
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert kind(optimizer.state_dict()) == name


def test_half_an_optimizer_is_neither_another_one_nor_resumable() -> None:
    group = {"lr": 0.1, "betas": (0.9, 0.999), "eps": 1e-8, "amsgrad": False, "params": [0, 1, 2]}
    whole = {name: torch.ones(2) for name in ("step", "exp_avg", "exp_avg_sq")}
    weights = {name: torch.ones(2) for name in "abc"}
    half = {"step": torch.ones(2), "exp_avg": torch.ones(2)}
    for states, count in (([half, {}, {}], 0), ([whole, half, {}], 1), ([{}, whole, whole], 2), ([half] * 3, 0)):
        optimizer = {"state": dict(enumerate(states)), "param_groups": [group]}
        value = {"loops": {}, "state_dict": weights, "optimizer_states": [optimizer]}
        found = of(value)
        assert found["optimizer"].value == ["Adam or AdamW"]
        assert "incomplete" in found["optimizer"].text
        assert not found["resume"].value["resumable"]
        assert f"({count} of 3 parameters" in found["resume"].text
    assert "only 1 weight is there" in of(value | {"state_dict": {"a": torch.ones(2)}})["resume"].text


def test_frozen_parameters_and_optimizers_that_keep_more_for_some_are_no_half_state() -> None:
    layers = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)]).requires_grad_(True)
    layers[1].requires_grad_(False)
    for name in ("Adam", "Adafactor"):
        optimizer = getattr(torch.optim, name)(layers.parameters())
        layers[0](torch.ones(1, 2)).sum().backward()
        optimizer.step()
        found = of({"loops": {}, "state_dict": layers.state_dict(), "optimizer_states": [optimizer.state_dict()]})
        assert found["resume"].value["resumable"]
        assert found["optimizer"].value == [name]
