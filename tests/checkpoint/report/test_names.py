"""Prefixes that wrappers leave, in any nest; second copies."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from mvae.checkpoint import export, inspect
from mvae.checkpoint.report.facts import Fact
from mvae.checkpoint.report.names import own_names

WRAPPERS = st.lists(st.sampled_from(["module", "_orig_mod", "_forward_module", "_fsdp_wrapped_module"]), max_size=5)


def saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def facts(value: Any) -> dict[str, Fact]:
    return {fact.name: fact for fact in inspect(saved(value)).facts}


def lightning(**more: Any) -> dict[str, Any]:
    return {"pytorch-lightning_version": "2.6.6", "loops": {}, "callbacks": {}, "lr_schedulers": []} | more


@given(WRAPPERS)
def test_prefixes_go_in_any_nest(nest: list[str]) -> None:
    own = ["encoder.0.weight", "encoder.0.bias", "head.module.weight"]
    wrapped = [".".join([*nest, name]) for name in own]
    assert list(own_names(wrapped).values()) == own


def test_a_name_of_a_million_wrappers_ends() -> None:
    name = "module." * 1_000_000 + "w"
    assert own_names([name])[name].endswith("module.w")


def test_what_is_wrapped_inside_loses_it_too() -> None:
    names = ["module.layers.0._fsdp_wrapped_module.w", "module.net._orig_mod.w"]
    assert list(own_names(names).values()) == ["layers.0.w", "net.w"]


def test_a_nest_of_wrappers_loads_into_the_model(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    wrapped = nn.DataParallel(torch.compile(model))
    value = {"model": wrapped.state_dict(), "optimizer": torch.optim.Adam(model.parameters()).state_dict()}
    found = facts(value)
    assert found["wrapped_orig_mod"].value == "torch.compile"
    assert "DataParallel" in found["wrapped_module"].value
    export(saved(value), tmp_path / "w.ckpt")
    state = torch.load(tmp_path / "w.ckpt", weights_only=True)["model"]
    assert state._metadata == model.state_dict()._metadata
    model.load_state_dict(state)


def test_only_the_beginning_of_every_name_speaks_of_a_strategy() -> None:
    two = {"a._forward_module.w": torch.ones(2), "b.w": torch.ones(2)}
    for value in (lightning(state_dict=two), {"model": two}):
        assert not any(name.startswith("wrapped") for name in facts(value))
    every = {f"_forward_module.{name}": tensor for name, tensor in two.items()}
    assert facts(lightning(state_dict=every))["wrapped_forward_module"].value == "a Lightning strategy"


def test_a_lightning_module_may_call_its_network_module(tmp_path: Path) -> None:
    value = lightning(state_dict={"module.weight": torch.ones(2), "module.bias": torch.ones(2)})
    assert not any(name.startswith("wrapped") for name in facts(value))
    export(saved(value), tmp_path / "w.safetensors")
    assert load_file(tmp_path / "w.safetensors").keys() == {"module.weight", "module.bias"}
    export(saved(value), tmp_path / "w.safetensors", strip_prefix=["module."])
    assert load_file(tmp_path / "w.safetensors").keys() == {"weight", "bias"}


def copies() -> dict[str, dict[str, torch.Tensor]]:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
    averaged = torch.optim.swa_utils.AveragedModel(model)
    plain = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    undotted = {f"model_ema.{name.replace('.', '')}": tensor for name, tensor in model.state_dict().items()}
    return {
        "model_ema": plain | {f"model_ema.{name.removeprefix('model.')}": t.clone() for name, t in plain.items()},
        "ema_model": plain | {f"ema_model.{name}": tensor for name, tensor in averaged.state_dict().items()},
        "teacher": plain | {f"teacher.{name.removeprefix('model.')}": t.clone() for name, t in plain.items()},
        "as latent diffusion": plain | undotted | {"model_ema.num_updates": torch.tensor(3)},
    }


@pytest.mark.parametrize("kind", copies())
def test_a_second_copy_is_named_and_taken(kind: str, tmp_path: Path) -> None:
    value = lightning(state_dict=copies()[kind], optimizer_states=[])
    found = facts(value)["second_copy"]
    prefix = "model_ema" if kind.startswith("as") else kind
    assert found.value == prefix
    assert f"a second copy (`{prefix}.`)" in found.text
    report = export(saved(value), tmp_path / "w.safetensors", key=prefix)
    taken = load_file(tmp_path / "w.safetensors")
    assert sum(t.numel() for t in taken.values() if t.numel() > 1) == 9 + 3 + 3
    assert any(name.startswith("state_dict.model.") for name in report.left_out)
    export(saved(value), tmp_path / "w.safetensors", key="model")
    assert load_file(tmp_path / "w.safetensors").keys() == {"0.weight", "0.bias", "1.weight", "1.bias"}


def test_layers_of_one_shape_are_no_copies() -> None:
    model = nn.Sequential(*(nn.Linear(3, 3) for _ in range(4)))
    assert "second_copy" not in facts({"state_dict": model.state_dict()})
    siamese = nn.ModuleDict({"left": nn.Linear(3, 3), "right": nn.Linear(3, 3)})
    assert "second_copy" not in facts({"state_dict": siamese.state_dict()})
