"""A file of known contents, and what must hold of whatever is saved of it."""

from __future__ import annotations

import io
import json
from typing import Any

import torch

from mvae.checkpoint import Salvage, inspect, salvage

Known = dict[str, bytes]


def training() -> dict[str, Any]:
    """Many tensors of one size, so that one could be taken for another; a shared one; and the optimizer's."""
    torch.manual_seed(0)
    layers = {f"layer.{i}.weight": torch.randn(4, 3) for i in range(12)}
    model = {**layers, "tied": layers["layer.3.weight"], "empty": torch.empty(0), "bias": torch.randn(200)}
    moments = {i: {"step": torch.tensor(float(i)), "exp_avg": torch.randn(4, 3)} for i in range(12)}
    group = {"lr": 0.1, "betas": (0.9, 0.999), "params": list(range(12))}
    return {"epoch": 3, "state_dict": model, "optimizer_states": [{"state": moments, "param_groups": [group]}]}


def saved(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def contents(raw: bytes) -> Known:
    """Name → bytes of every tensor."""
    return {entry.name: entry.tensor.array().tobytes() for entry in inspect(raw).tensors}


def rescued(raw: bytes) -> tuple[Salvage, bytes]:
    out = io.BytesIO()
    found = salvage(raw, out)
    assert found.size == len(out.getvalue())
    assert str(found)
    json.dumps(found.to_dict(), allow_nan=False)
    return found, out.getvalue()


def all_right(found: Salvage, out: bytes, known: Known) -> None:
    """Every tensor in the new file is one of the old, to the bit; those kept and those lost are all there were."""
    back = contents(out)
    assert set(back) == set(found.kept)
    if found.kept or not any("names and values" in note for note in found.notes):
        assert {lost.name for lost in found.lost} | set(found.kept) == set(known)
    for name, content in back.items():
        assert content == known[name], name
