"""Checkpoints whose differences are known."""

from __future__ import annotations

import math
from typing import Any

import torch


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
