"""Modules that were saved whole: what their `state_dict()` would give."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from mvae.checkpoint import CheckpointFile, export, inspect
from mvae.checkpoint.report.facts import Fact


def saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def look(value: Any) -> tuple[CheckpointFile, dict[str, Fact]]:
    file = inspect(value if isinstance(value, (bytes, Path)) else saved(value))
    return file, {fact.name: fact for fact in file.facts}


def exported(value: Any, tmp_path: Path, ending: str = "safetensors", **options: Any) -> dict[str, torch.Tensor]:
    path = tmp_path / f"out.{ending}"
    export(value if isinstance(value, (bytes, Path)) else saved(value), path, **options)
    return load_file(path) if ending == "safetensors" else torch.load(path, weights_only=True)


def half_with_a_plain_tensor() -> nn.Module:
    half = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).half()
    half[0].stride = torch.tensor([8.0, 16.0, 32.0])
    half[0].register_buffer("passing", torch.ones(5), persistent=False)
    return half


def test_of_a_module_parameters_are_parameters(tmp_path: Path) -> None:
    model = half_with_a_plain_tensor()
    for value in (model, {"model": model}, {"epoch": 1, "anything": model}):
        file, facts = look(value)
        assert facts["parameters"].value == sum(p.numel() for p in model.parameters())
        assert facts["parameters"].text == (
            "10 parameters in 4 tensors; beside them 8 elements in 2 tensors that no `state_dict` would hold."
        )
        assert facts["precision"].value == ["float16"]
        assert file.bytes["weights"] == 20
        assert file.bytes["buffers"] == sum(b.nbytes for b in model[1].buffers())
        back = exported(value, tmp_path)
        assert {name: t.tolist() for name, t in back.items()} == {n: t.tolist() for n, t in model.state_dict().items()}


def test_torchscript_says_which_attributes_are_parameters(tmp_path: Path) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
            self.norm = nn.BatchNorm1d(2)
            self.register_buffer("mask", torch.ones(2), persistent=False)
            self.plain = torch.ones(3)
            self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for layer in self.layers:
                x = layer(x)
            return self.norm(x) * self.mask + self.plain.sum() + self.frozen

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(Net().eval(), torch.ones(3, 2)), tmp_path / "traced.pt")
        torch.jit.save(torch.jit.script(Net()), tmp_path / "scripted.pt")
        for name in ("traced.pt", "scripted.pt"):
            theirs = torch.jit.load(tmp_path / name)
            file, facts = look(tmp_path / name)
            assert "carries its own code" in facts["contents"].text
            assert facts["parameters"].value == sum(p.numel() for p in theirs.parameters())
            assert file.bytes["weights"] == sum(p.nbytes for p in theirs.parameters())
            assert file.bytes["buffers"] == sum(b.nbytes for b in theirs.buffers())
            for ending in ("safetensors", "ckpt"):
                back = exported(tmp_path / name, tmp_path, ending)
                state = theirs.state_dict()
                assert back.keys() == state.keys()
                assert all(torch.equal(back[key], state[key]) for key in state)


def test_an_lstm_keeps_a_list_of_its_own_parameters() -> None:
    assert look(nn.LSTM(2, 2))[1]["parameters"].text == "48 parameters in 4 tensors."
