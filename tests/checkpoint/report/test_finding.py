"""Where the weights are, and what to type where they are not in their usual place."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from mvae.checkpoint import CheckpointError, CheckpointFile, export, inspect
from mvae.checkpoint.report.facts import Fact


class Learner:
    """As fastai's: a model inside an object."""


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


def test_where_a_key_would_help_the_message_gives_the_line_to_type(tmp_path: Path) -> None:
    first, second = nn.Linear(2, 2), nn.Linear(2, 3)
    value = {"epoch": 1, "generator": first.state_dict(), "discriminator": {"state": second.state_dict()}}
    _, facts = look(value | {"other": first.state_dict()})
    assert "--key generator or --key discriminator.state or --key other" in facts["tensors"].text
    with pytest.raises(CheckpointError, match=r"--key generator or --key other or --key discriminator\.state"):
        exported(value | {"other": first.state_dict(), "discriminator": value.pop("discriminator")}, tmp_path)
    images = {"image": torch.zeros(4, dtype=torch.uint8), "table": torch.ones(3)}
    with pytest.raises(CheckpointError, match=r"--key \. \(a dot\)"):
        exported(images, tmp_path)
    assert exported(images, tmp_path, key=".").keys() == images.keys()
    assert exported(images, tmp_path, key="table").keys() == {"table"}


def test_a_model_inside_an_object_is_found_by_both(tmp_path: Path) -> None:
    learner = Learner()
    learner.model, learner.extra = nn.Linear(2, 2), [torch.ones(3)]
    file, facts = look(learner)
    assert facts["parameters"].value == 6
    assert file.bytes["weights"] == 24
    report = export(saved(learner), tmp_path / "w.safetensors")
    assert load_file(tmp_path / "w.safetensors").keys() == {"weight", "bias"}
    assert report.left_out == ["extra"]


def test_weights_beside_the_weights_are_an_error_unless_asked_for(tmp_path: Path) -> None:
    first, second = nn.Linear(2, 2), nn.Linear(2, 3)
    value = {"model": first.state_dict(), "critic": second.state_dict(), "optimizer": {"state": {}, "param_groups": []}}
    _, facts = look(value)
    assert facts["other_weights.critic"].text == (
        "`critic` holds weights too (9 elements in 2 tensors): `mvae export --key critic` takes them."
    )
    with pytest.raises(CheckpointError, match="Choose one: --key model or --key critic"):
        exported(value, tmp_path)
    report = export(saved(value), tmp_path / "w.safetensors", key="model")
    assert report.left_out == ["critic", "optimizer"]
    assert exported(value, tmp_path, key="critic").keys() == {"weight", "bias"}
