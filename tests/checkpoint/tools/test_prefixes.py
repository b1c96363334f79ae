"""The same names under another prefix."""

from __future__ import annotations

from typing import Any

import pytest
from compared import training

from mvae.checkpoint import diff
from mvae.checkpoint.tools.prefixes import pair_by_prefix


def _prefixed(state: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {prefix + key: value for key, value in state.items()}


@pytest.mark.parametrize(
    ("wrap", "prefixes"),
    [
        (lambda state: _prefixed(state, "module."), ("state_dict.", "module.")),
        (lambda state: {"state_dict": _prefixed(state, "_orig_mod.")}, ("state_dict.", "state_dict._orig_mod.")),
        (lambda state: state, ("state_dict.", "")),
        (lambda state: {"model": {"net": state}}, ("state_dict.", "model.net.")),
    ],
)
def test_the_same_weights_under_a_prefix(save: Any, wrap: Any, prefixes: tuple[str, str]) -> None:
    state = training()["state_dict"]
    found = diff(save({"state_dict": state}), save(wrap(dict(state))))
    assert found.prefixes == [(*prefixes, 4)]
    assert found.equal == 4
    assert [*found.changed, *found.only_a, *found.only_b] == []
    assert not found.same, "a loader would mind"


def test_prefixes_at_scale_and_by_halves() -> None:
    left = [f"state_dict.layer.{i}.weight" for i in range(20_000)] + [f"ema.{i}.w" for i in range(50)] + ["alone"]
    right = [f"m.{i}.weight" for i in range(0, 20_000, 2)] + [f"average.model.{i}.w" for i in range(50)]
    found = [(a, b, len(pairs)) for a, b, pairs in pair_by_prefix(left, right)]
    assert found == [("state_dict.layer.", "m.", 10_000), ("ema.", "average.model.", 50)]
    assert list(pair_by_prefix([f"a.x{i}" for i in range(9_000)], [f"b.y{i}" for i in range(9_000)])) == []
