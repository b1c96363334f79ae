"""Loaders of other people's kinds: what they have in common is that each draws random numbers somewhere."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from exact_runs import BATCH, ROWS, rows_of
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, WeightedRandomSampler
from torchdata.stateful_dataloader import StatefulDataLoader

from mvae.data import CSRLoader


class Noisy(Dataset[torch.Tensor]):
    """Random transforms, from the three global generators."""

    def __init__(self, rows: int = ROWS) -> None:
        self.rows = rows_of(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.rows[index] + torch.randn(()) + random.random() + float(np.random.rand())


class WithGenerator(Noisy):
    """Random transforms, from a generator of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.rng = np.random.default_rng(3)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.rows[index] + float(self.rng.normal())


class Endless(IterableDataset[torch.Tensor]):
    """A stream that is shuffled in a buffer and has no length."""

    def __init__(self, rows: int = ROWS) -> None:
        self.rows = rows_of(rows)

    def __iter__(self) -> Iterator[torch.Tensor]:
        buffer: list[torch.Tensor] = []
        worker = torch.utils.data.get_worker_info()
        mine = self.rows if worker is None else self.rows[worker.id :: worker.num_workers]
        for row in mine:
            buffer.append(row + torch.randn(()))
            if len(buffer) > 4:
                yield buffer.pop(random.randrange(len(buffer)))
        yield from buffer


class CountingSampler(Sampler[int]):
    """Draws its order from the number of its passes, which it counts."""

    def __init__(self) -> None:
        self.passes = 0

    def __len__(self) -> int:
        return ROWS

    def __iter__(self) -> Iterator[int]:
        self.passes += 1
        yield from np.random.default_rng(self.passes).permutation(ROWS).tolist()


class OwnLoader:
    """Not a DataLoader, and without a state."""

    def __init__(self) -> None:
        self.rows = rows_of(ROWS)
        self.passes = 0

    def __len__(self) -> int:
        return -(-ROWS // BATCH)

    def __iter__(self) -> Iterator[torch.Tensor]:
        self.passes += 1
        order = torch.randperm(ROWS)
        for start in range(0, ROWS, BATCH):
            yield self.rows[order[start : start + BATCH]] + self.passes + random.random()


class CountsPasses:
    """Has a state, and counts the passes as they begin."""

    def __init__(self) -> None:
        self.rows, self.passes, self.next = rows_of(ROWS), 0, 0

    def __len__(self) -> int:
        return -(-ROWS // BATCH)

    def __iter__(self) -> Iterator[torch.Tensor]:
        if self.next in (0, len(self)):
            self.passes, self.next = self.passes + 1, 0
        return self._batches()

    def _batches(self) -> Iterator[torch.Tensor]:
        order = np.random.default_rng(self.passes).permutation(ROWS)
        while self.next < len(self):
            self.next += 1
            yield self.rows[order[(self.next - 1) * BATCH : self.next * BATCH]] + self.passes

    def state_dict(self) -> dict[str, int]:
        return {"passes": self.passes, "next": self.next}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.passes, self.next = state["passes"], state["next"]


def loader(data: Any = None, kind: type[DataLoader[Any]] = DataLoader, **options: Any) -> DataLoader[Any]:
    data = Noisy() if data is None else data
    shuffle = {} if isinstance(data, IterableDataset) or "sampler" in options else {"shuffle": True}
    return kind(data, **{"batch_size": BATCH} | shuffle | options)


def csr(rows: int = ROWS) -> CSRLoader:
    return CSRLoader(sp.csr_matrix(rows_of(rows).numpy()), batch_size=BATCH, shuffle=True)


def weighted() -> DataLoader[Any]:
    return loader(sampler=WeightedRandomSampler(torch.arange(1, ROWS + 1).double(), ROWS))


WORKERS = {"num_workers": 2, "multiprocessing_context": "fork"}
PERSISTENT = WORKERS | {"persistent_workers": True}


def combined(mode: Any, make: Callable[[int], Any]) -> Callable[[], CombinedLoader]:
    return lambda: CombinedLoader({"a": make(ROWS), "b": make(10)}, mode)


LOADERS: dict[str, Callable[[], Any]] = {
    "DataLoader": loader,
    "DataLoader with a generator": lambda: loader(generator=torch.Generator().manual_seed(5)),
    "DataLoader, weighted sampler": weighted,
    "DataLoader, a data set with a generator": lambda: loader(WithGenerator()),
    "DataLoader, a sampler that counts": lambda: loader(sampler=CountingSampler()),
    "DataLoader, drop_last": lambda: loader(drop_last=True),
    "IterableDataset": lambda: loader(Endless()),
    "own loader": OwnLoader,
    "CSRLoader": csr,
    "counts its passes": CountsPasses,
    "StatefulDataLoader": lambda: loader(rows_of(ROWS), StatefulDataLoader),
    "min_size": combined("min_size", lambda rows: loader(Noisy(rows))),
    "max_size": combined("max_size", lambda rows: loader(Noisy(rows))),
    "max_size_cycle": combined("max_size_cycle", lambda rows: loader(Noisy(rows))),
    "max_size_cycle of CSRLoaders": combined("max_size_cycle", csr),
    "min_size of StatefulDataLoaders": combined("min_size", lambda rows: loader(rows_of(rows), StatefulDataLoader)),
    "one with a state, one without": lambda: CombinedLoader([csr(), loader()], "min_size"),
}
SLOW_LOADERS: dict[str, Callable[[], Any]] = {
    "DataLoader, workers": lambda: loader(**WORKERS),
    "DataLoader, persistent workers": lambda: loader(**PERSISTENT),
    "IterableDataset, workers": lambda: loader(Endless(), **WORKERS),
    "StatefulDataLoader, workers": lambda: loader(rows_of(ROWS), StatefulDataLoader, **WORKERS),
}
