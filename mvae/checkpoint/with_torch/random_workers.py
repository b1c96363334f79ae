"""Whether a loader's workers draw random numbers: where persistent ones stand cannot be asked from outside."""

from __future__ import annotations

import pickle
import random
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from mvae.checkpoint.with_torch.generators import seed_all
from mvae.checkpoint.with_torch.held_state import HeldState

_ROWS = 4


class _Trial(Dataset[bool]):
    """Its one item is whether making a small batch of the loader moves a generator."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        # The loader itself holds its workers, which cannot be handed to another process.
        self.dataset, self.collate = loader.dataset, loader.collate_fn

    def __len__(self) -> int:
        return 1

    def __getitem__(self, _: int) -> bool:
        seed_all(0)
        expected = _draw()
        held = HeldState([self])
        before = _generators(held)
        seed_all(0)
        self._batch()
        return _draw() != expected or _generators(held) != before

    def _batch(self) -> None:
        if isinstance(self.dataset, IterableDataset):
            rows = list(islice(self.dataset, _ROWS))
        else:
            number = min(_ROWS, len(self.dataset))  # type: ignore[arg-type]
            rows = [self.dataset[row] for row in range(number)]
        if rows and self.collate is not None:
            self.collate(rows)


def _draw() -> list[float]:
    return [random.random(), float(np.random.rand()), float(torch.rand(()))]


def _generators(held: HeldState) -> bytes:
    return pickle.dumps(
        {path: state for path, state in held.now().items() if not isinstance(state, bool | int | float)}
    )


def draw_random_numbers(loader: DataLoader[Any]) -> bool:
    """Try it with a few rows, in a worker of its own: nothing in this process or in the loader's workers changes.

    A data set without whole numbers as keys, or one that fails, is taken for one that draws none.
    """
    trial = DataLoader(
        _Trial(loader),
        batch_size=None,
        num_workers=1,
        multiprocessing_context=loader.multiprocessing_context,
        generator=torch.Generator(),
    )
    try:
        return any(trial)
    except Exception:  # whatever somebody's data set raises
        return False
