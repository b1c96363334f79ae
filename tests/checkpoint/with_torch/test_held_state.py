"""What a loader's parts hold that changes as batches are drawn is found, and put back."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from mvae.checkpoint.with_torch.held_state import HeldState


class Noise:
    """A transform with a generator of its own."""

    def __init__(self) -> None:
        self.numpy = np.random.default_rng(1)


class Rows(Dataset[float]):
    """Counts what it gave, and has a transform in a list."""

    def __init__(self) -> None:
        self.given = 0
        self.size = 8
        self.transforms = [Noise()]
        self.generator = torch.Generator().manual_seed(3)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, _: int) -> float:
        self.given += 1
        return self.transforms[0].numpy.random() + float(torch.rand((), generator=self.generator))


def loader() -> DataLoader[float]:
    return DataLoader(Rows(), 2, shuffle=True, generator=torch.Generator().manual_seed(0))


def drawn(loader: Any) -> list[list[float]]:
    return [batch.tolist() for batch in loader]


def test_what_was_put_back_goes_on_as_the_other_would_have() -> None:
    one, other = loader(), loader()
    held, there = HeldState([one]), HeldState([other])
    drawn(one)
    state = held.now()
    assert there.set(state) == []
    assert other.dataset.given == 8
    assert drawn(other) == drawn(one)


def test_only_numbers_that_have_changed_are_kept() -> None:
    one = loader()
    held = HeldState([one])
    assert not [path for path, value in held.now().items() if isinstance(value, int)]
    drawn(one)
    assert {path: value for path, value in held.now().items() if isinstance(value, int)} == {"0.dataset.given": 8}


def test_a_number_that_was_as_at_first_is_as_at_first_again() -> None:
    one = loader()
    held = HeldState([one])
    state = held.now()
    drawn(one)
    held.set(state)
    assert one.dataset.given == 0


def test_what_is_not_there_any_more_is_named() -> None:
    one = loader()
    state = HeldState([one]).now()
    del one.dataset.generator
    assert HeldState([one]).set(state) == ["0.dataset.generator"]


def test_a_loader_that_is_none_of_torchs_is_looked_into_and_one_that_holds_itself_ends() -> None:
    class Own:
        def __init__(self) -> None:
            self.me, self.epoch, self.long = self, 0, list(range(1000))

    own = Own()
    held = HeldState([own])
    own.epoch, own.long[5] = 3, -1
    assert held.now() == {"0.epoch": 3}
