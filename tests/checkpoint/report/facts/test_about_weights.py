"""What is said of the weights: how many, of which type, and what lies beside them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mvae.checkpoint import inspect
from mvae.checkpoint.report.facts import Fact


def facts(path: Any, **options: Any) -> dict[str, Fact]:
    return {fact.name: fact for fact in inspect(path, **options).facts}


def of(value: Any, **options: Any) -> dict[str, Fact]:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return facts(buffer.getvalue(), **options)


def test_parameters_are_counted_once(zoo: dict[str, Path]) -> None:
    assert facts(zoo["lightning"])["parameters"].value == 8 * 4 + 4 + 4 + 4 + 4 + 1
    tied = nn.Linear(3, 3, bias=False)
    assert of({"state_dict": {"a": tied.weight, "b": tied.weight}})["parameters"].value == 9


def test_weights_alone_cannot_be_resumed(zoo: dict[str, Path]) -> None:
    found = facts(zoo["weights only"])
    assert found["resume"].value["missing"] == ["the optimizer's state"]
    assert "random_state" not in found


def test_wrappers_are_seen(zoo: dict[str, Path]) -> None:
    assert facts(zoo["compiled"])["wrapped_orig_mod"].value == "torch.compile"
    assert "DataParallel" in facts(zoo["data parallel"])["wrapped_module"].value
    assert not any(name.startswith("wrapped") for name in facts(zoo["state dict"]))


def test_precision(zoo: dict[str, Path]) -> None:
    assert facts(zoo["amp"])["precision"].value == "16-mixed"
    assert "bfloat16" in facts(zoo["bf16"])["precision"].value


def test_a_view_saved_with_all_it_is_a_view_of() -> None:
    found = of({"state_dict": {"row": torch.zeros(1000, 100)[0]}})
    assert found["unused_bytes"].value == 399_600


def test_a_loss_scaler_is_known_by_what_it_keeps() -> None:
    scaler = torch.amp.GradScaler("cpu").state_dict()
    for key in ("scaler", "amp_scaler", "MixedPrecision"):
        assert of({"state_dict": nn.Linear(2, 2).state_dict(), key: scaler})["precision"].value == "16-mixed"


def test_a_second_name_for_the_same_tensors_is_no_second_copy() -> None:
    weights = nn.Linear(4, 4).state_dict()
    found = of({"model": weights, "ema": weights})["other_weights.ema"]
    assert found.text == "`ema` holds the same tensors as the weights: they take no room of their own."
    copied = {name: tensor.clone() for name, tensor in weights.items()}
    assert "a second copy" in of({"model": weights, "ema": copied})["other_weights.ema"].text


def test_the_count_of_an_averaged_model_is_no_parameter() -> None:
    averaged = torch.optim.swa_utils.AveragedModel(nn.Linear(4, 4))
    found = of(averaged.state_dict())
    assert found["parameters"].value == 20
    assert found["precision"].value == ["float32"]
