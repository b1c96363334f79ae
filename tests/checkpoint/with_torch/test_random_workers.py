"""Whether a loader's workers draw random numbers is tried in a worker, and changes nothing here."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from mvae.checkpoint.with_torch.random_workers import draw_random_numbers


class Rows(Dataset[float]):
    def __init__(self, how: str) -> None:
        self.how = how
        self.own = np.random.default_rng(0)

    def __len__(self) -> int:
        return 8

    def __getitem__(self, row: int) -> float:
        draw = {
            "none": lambda: 0.0, "python": random.random, "numpy": np.random.rand, "of its own": self.own.random,
            "torch": lambda: float(torch.rand(())), "fails": lambda: 1 / 0,
        }[self.how]  # fmt: skip
        return row + draw()


class Stream(IterableDataset[float]):
    def __iter__(self) -> Any:
        while True:
            yield random.random()


def shaken(rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows) + torch.randn(len(rows))


@pytest.mark.parametrize(
    ("how", "draws"),
    [("none", False), ("python", True), ("numpy", True), ("torch", True), ("of its own", True), ("fails", False)],
)
def test_a_data_set_that_draws_is_told_from_one_that_does_not(how: str, draws: bool) -> None:
    before = random.getstate(), torch.get_rng_state()
    data = Rows(how)
    assert draw_random_numbers(DataLoader(data, 2, num_workers=1)) == draws
    assert random.getstate() == before[0]
    assert data.own.bit_generator.state == np.random.default_rng(0).bit_generator.state
    assert torch.equal(torch.get_rng_state(), before[1])


def test_what_puts_rows_together_may_draw_too_and_a_stream_without_end_ends() -> None:
    assert draw_random_numbers(DataLoader(Rows("none"), 2, num_workers=1, collate_fn=shaken))
    assert draw_random_numbers(DataLoader(Stream(), 2, num_workers=1))
