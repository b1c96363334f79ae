"""Elements as numbers, whatever type they were saved as."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mvae.checkpoint import diff
from mvae.checkpoint.tools.elements import has_numbers, numbers


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
