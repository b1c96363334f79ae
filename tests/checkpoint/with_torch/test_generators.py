"""The global generators are remembered and go on from where they stood, whatever was drawn in between."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mvae.checkpoint.with_torch.generators import plain, put, set_generator_states, take

CPU = torch.device("cpu")

DRAWS: dict[str, Any] = {
    "a number": np.random.rand,
    "one of two normal numbers": np.random.randn,  # the other is kept for the next call
    "two normal numbers": lambda: np.random.randn(2),
    "more than the generator holds": lambda: np.random.rand(700),
    "a new seed": lambda: np.random.seed(4),
    "nothing": lambda: None,
    "Python": random.random,
    "torch": lambda: torch.rand(3),
}


def following() -> list[Any]:
    return [np.random.randn(3).tolist(), np.random.rand(), random.gauss(0, 1), torch.rand(2).tolist()]


@given(st.lists(st.sampled_from(list(DRAWS)), max_size=6), st.lists(st.sampled_from(list(DRAWS)), max_size=6))
def test_a_snapshot_is_gone_on_from_whatever_is_drawn_before_and_after(before: list[str], after: list[str]) -> None:
    for name in before:
        take(CPU)  # between any two draws, so that what was remembered last is as old as it can be
        DRAWS[name]()
    snapshot, states = take(CPU), plain(take(CPU), CPU)
    expected = following()
    for name in after:
        DRAWS[name]()
        take(CPU)
    put(snapshot, CPU)
    assert following() == expected
    for name in after:
        DRAWS[name]()
    assert set_generator_states(states, CPU) == []
    assert following() == expected


def test_a_snapshot_stays_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    np.random.seed(0)
    snapshot = take(CPU)
    expected = np.random.rand(3).tolist()
    for _ in range(3):
        put(snapshot, CPU)
        assert np.random.rand(3).tolist() == expected


def test_numpy_is_asked_only_if_it_has_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    np.random.seed(0)
    take(CPU)
    asked: list[bool] = []
    get_state = np.random.get_state
    monkeypatch.setattr(np.random, "get_state", lambda **options: asked.append(True) or get_state(**options))
    snapshot = take(CPU)
    put(snapshot, CPU)
    assert asked == []
    np.random.rand()
    take(CPU)
    assert asked == [True]


def test_another_kind_of_generator_in_numpys_place_is_remembered_too() -> None:
    own = np.random.get_bit_generator()
    try:
        np.random.set_bit_generator(np.random.PCG64(3))
        snapshot = take(CPU)
        expected = np.random.rand(3).tolist()
        take(CPU)
        put(snapshot, CPU)
        assert np.random.rand(3).tolist() == expected
    finally:
        np.random.set_bit_generator(own)
