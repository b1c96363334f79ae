"""By how much two tensors differ."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from compared import training
from hostile_files import checkpoint, pickle_of, text

from mvae.checkpoint import CheckpointError, diff
from mvae.checkpoint.tools.amounts import has_numbers, numbers
from mvae.text import as_json


def test_a_step_of_training(save: Any) -> None:
    a, b = training(2), training(3)
    found = diff(save(a), save(b))
    assert [str(change) for change in found.values] == ["~ epoch  2 → 3"]
    assert {change.name.partition(".")[0] for change in found.changed} == {
        "state_dict",
        "optimizer_states",
        "callbacks",
    }
    by_name = {change.name: change for change in found.changed}
    step = by_name["optimizer_states.0.state.0.step"].amount
    assert step is not None
    assert (step.before, step.after) == (2.0, 3.0)
    amount = by_name["state_dict.0.weight"].amount
    old, new = a["state_dict"]["0.weight"].double(), b["state_dict"]["0.weight"].double()
    assert amount is not None
    assert amount.max_abs == pytest.approx((new - old).abs().max().item())
    assert amount.relative == pytest.approx(((new - old).norm() / old.norm()).item())
    assert amount.changed == amount.elements == 24
    report = str(found)
    assert "weights: 4 changed" in report
    assert "Adam exp_avg: 4 changed" in report
    assert "float32 []  2.0 → 3.0" in report
    json.dumps(found.to_dict(), allow_nan=False)


def test_numbers_that_are_not_finite(save: Any) -> None:
    a = torch.tensor([1.0, math.nan, math.inf, 2.0, 0.0])
    b = torch.tensor([math.nan, math.nan, 1.0, 3.0, -0.0])
    amount = diff(save({"w": a}), save({"w": b})).changed[0].amount
    assert amount is not None
    assert (amount.changed, amount.not_finite, amount.max_abs, amount.relative) == (4, 2, 1.0, 0.5)
    zero = diff(save({"w": torch.zeros(2)}), save({"w": torch.ones(2)})).changed[0].amount
    assert zero is not None
    assert zero.relative == math.inf
    assert as_json(zero)["relative"] == "inf"


def test_an_expanded_tensor_is_not_unfolded_without_end() -> None:
    from hostile_files import tensor

    wide = tensor(shape=b"J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x86", stride=b"K\x00K\x00\x86")
    members = [{"archive/data/0": bytes(16)}, {"archive/data/0": bytes(15) + b"x"}]
    a, b = (checkpoint(pickle_of(b"}", text("w"), wide, b"s"), content) for content in members)
    with pytest.raises(CheckpointError, match="not unfolded"):
        diff(a, b)


# --- elements as numbers, whatever type they were saved as


@pytest.mark.parametrize(
    "dtype",
    ["float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu", "bfloat16", "float16"],
)
def test_small_floats_are_worth_what_torch_says(dtype: str) -> None:
    small = dtype.startswith("float8")
    raw = torch.arange(256 if small else 65536).to(torch.uint8 if small else torch.uint16)
    theirs = raw.view(getattr(torch, dtype)).double()
    ours = torch.from_numpy(numbers(raw.numpy().tobytes(), dtype))
    assert torch.equal(ours.nan_to_num(7e99), theirs.nan_to_num(7e99))


@pytest.mark.parametrize("dtype", ["complex64", "int64", "bool", "uint8", "float8_e5m2", "float64"])
def test_every_type_is_measured(save: Any, dtype: str) -> None:
    a, b = (torch.tensor([0, 1, last]).to(getattr(torch, dtype)) for last in (1, 0))
    assert has_numbers(dtype)
    amount = diff(save({"w": a}), save({"w": b})).changed[0].amount
    assert amount is not None
    assert (amount.changed, amount.max_abs) == (1, 1.0)
    single = diff(save({"w": a[2]}), save({"w": b[2]})).changed[0].amount
    assert single is not None
    assert (single.before, single.after) == (1, 0)
