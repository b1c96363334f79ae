"""Limits on time and memory: past one, a file is refused."""

from __future__ import annotations

import gc
import pickle
from contextlib import suppress
from typing import Any

import pytest

from mvae.checkpoint import CheckpointError
from mvae.checkpoint.pickled.limits import Limits, collector_held_off
from mvae.checkpoint.pickled.machine import Unpickler


def load(raw: bytes, **limits: int) -> Any:
    return Unpickler(raw, limits=Limits(**limits)).load()


@pytest.mark.parametrize("limits", [{"opcodes": 4096}, {"memory": 10_000}, {"depth": 3}, {"unfolded": 10}])
def test_limits_are_kept(limits: dict[str, int]) -> None:
    value = [[[[[str(number) for number in range(10_000)]]]]]
    with pytest.raises(CheckpointError):
        load(pickle.dumps(value), **limits)


def test_what_one_pickle_cost_is_taken_from_the_next() -> None:
    left = Limits(opcodes=10, memory=100).less(4, 150)
    assert (left.opcodes, left.memory) == (6, 0)
    assert left.depth == Limits().depth


@pytest.mark.parametrize("collecting", [True, False])
def test_the_collector_is_as_before_even_after_an_error(collecting: bool) -> None:
    (gc.enable if collecting else gc.disable)()
    try:
        with suppress(RuntimeError), collector_held_off():
            inside = gc.isenabled()
            raise RuntimeError
        assert (inside, gc.isenabled()) == (False, collecting)
    finally:
        gc.enable()
