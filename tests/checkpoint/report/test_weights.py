"""One place decides what the weights are: the facts, the byte budget and `export` agree, on every kind of file."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from mvae.checkpoint import CheckpointError, CheckpointFile, export, inspect
from mvae.checkpoint.report.facts import Fact


class Graph:
    """As torch_geometric's Data: tensors that are no parameters."""


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


def test_data_and_random_states_are_tensors_and_nothing_to_export(tmp_path: Path) -> None:
    graph = Graph()
    graph.x, graph.edge_index = torch.randn(5, 3), torch.zeros(2, 7, dtype=torch.long)
    for value, count in (
        (graph, 29),
        ({"torch_manual_seed": torch.get_rng_state()}, 5056),
        ({"images": torch.zeros(4, 8, dtype=torch.uint8), "labels": torch.zeros(4, dtype=torch.long)}, 36),
        ({"x": torch.randn(4, 3), "edge_index": torch.zeros(2, 9, dtype=torch.long)}, 30),
        ({"epoch": 3, "loss": torch.tensor(0.5), "history": [1.0]}, 1),
        (torch.ones(3, 4), 12),
    ):
        file, facts = look(value)
        assert "parameters" not in facts
        assert "precision" not in facts
        assert facts["tensors"].value == count
        assert "weights" not in file.bytes
        assert file.bytes["tensors"] > 0
        with pytest.raises(CheckpointError, match="no weights found"):
            exported(value, tmp_path)


def test_a_dict_of_tensors_may_be_weights_and_nothing_more_is_said(tmp_path: Path) -> None:
    value = {"w_ih": torch.ones(4, 4), "w_hh": torch.ones(2, 4)}
    file, facts = look(value)
    assert "parameters" not in facts
    assert facts["tensors"].text == "24 elements in 2 tensors; nothing says that they are weights."
    assert file.bytes["tensors"] == 96
    assert exported(value, tmp_path).keys() == value.keys()


def test_quantised_types_are_types() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        value = {"state_dict": {"w": torch.quantize_per_tensor(torch.randn(64, 64), 0.1, 0, torch.qint8)}}
        value["state_dict"]["c"] = torch.quantize_per_channel(
            torch.randn(2, 3), torch.ones(2) / 8, torch.zeros(2), 0, torch.quint8
        )
        value["state_dict"]["b"] = torch.ones(4)
        file, facts = look(value)
    assert facts["precision"].value == ["float32", "qint8", "quint8"]
    assert facts["parameters"].value == 64 * 64 + 6 + 4, "not the scales"
    assert "quantised" in facts["parameters"].text
    assert set(file.bytes) & {"weights", "buffers", "state_dict"} == {"weights"}


def test_what_a_state_dict_does_not_say_is_not_said() -> None:
    model = nn.Linear(3, 3)
    model.register_buffer("mask", torch.ones(3))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    assert "unless buffers are among them" in look({"state_dict": model.state_dict()})[1]["parameters"].text
    both = {"state_dict": model.state_dict(), "optimizer_states": [optimizer.state_dict()]}
    assert "unless buffers are among them" in look(both)[1]["parameters"].text
    both["state_dict"] = nn.Linear(3, 3).state_dict()
    assert look(both)[1]["parameters"].text == "12 parameters in 2 tensors."


def test_an_averaged_copy_under_a_key_of_its_own_is_named() -> None:
    state = nn.Linear(2, 2).state_dict()
    _, facts = look({"state_dict": state, "state_dict_ema": {name: t.clone() for name, t in state.items()}, "epoch": 1})
    assert facts["other_weights.state_dict_ema"].text == (
        "`state_dict_ema` holds a second copy of the weights: `mvae export --key state_dict_ema` takes them."
    )


@pytest.mark.parametrize("count", [1, 2])
def test_one_is_not_many(count: int) -> None:
    model = nn.ModuleList([nn.Linear(1, 1, bias=False) for _ in range(count)])
    ending = "" if count == 1 else "s"
    assert look(model)[1]["parameters"].text == f"{count} parameter{ending} in {count} tensor{ending}."


def test_two_values_of_one_name_are_not_merged(tmp_path: Path) -> None:
    value = {"state_dict": {"a.b": torch.ones(1), "a": {"b": torch.zeros(1)}}}
    with pytest.raises(CheckpointError, match=r"would be called 'a\.b'"):
        exported(value, tmp_path)
    look(value)
