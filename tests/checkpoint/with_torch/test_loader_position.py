"""Which way leads back into a pass over a loader, told from the loader alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from lightning.pytorch.utilities import CombinedLoader
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, Sampler, TensorDataset
from torchdata.stateful_dataloader import StatefulDataLoader

from mvae.checkpoint.with_torch import loader_position as lp
from mvae.data.loader import CSRLoader

ROWS = TensorDataset(torch.arange(6.0))


class Stream(IterableDataset[int]):
    def __iter__(self) -> Any:
        return iter(range(6))


class Whim(Sampler[int]):
    """Draws as it goes, so that passing over its batches draws other numbers."""

    def __iter__(self) -> Any:
        return (int(torch.randint(6, ())) for _ in range(6))


class Batches(BatchSampler):
    """One that is not torch's own may draw whenever it likes."""


class Own(DataLoader[Any]):
    def __iter__(self) -> Any:
        return super().__iter__()


def csr() -> CSRLoader:
    return CSRLoader(sp.eye_array(6, format="csr", dtype=np.float32), batch_size=2)


WAYS = {
    "of ours": (lambda: csr(), lp.STATE),
    "torchdata's": (lambda: StatefulDataLoader(ROWS, 2), lp.STATE),
    "in order": (lambda: DataLoader(ROWS, 2), lp.SKIP),
    "shuffled": (lambda: DataLoader(ROWS, 2, shuffle=True), lp.SKIP),
    "not in batches": (lambda: DataLoader(ROWS, batch_size=None), lp.SKIP),
    "with workers": (lambda: DataLoader(ROWS, 2, shuffle=True, num_workers=1), lp.REPLAY),
    "a stream": (lambda: DataLoader(Stream(), 2), lp.STREAM),
    "a stream with workers": (lambda: DataLoader(Stream(), 2, num_workers=1), lp.REPLAY),
    "a sampler of one's own": (lambda: DataLoader(ROWS, 2, sampler=Whim()), lp.STREAM),
    "batches of one's own": (lambda: DataLoader(ROWS, batch_sampler=Batches(RandomSampler(ROWS), 2, False)), lp.STREAM),
    "a loader of one's own": (lambda: Own(ROWS, 2), lp.STREAM),
    "a list": (lambda: [1, 2, 3], lp.STREAM),
}


@pytest.mark.parametrize("kind", WAYS)
def test_the_way_back_into_a_pass(kind: str) -> None:
    make, way = WAYS[kind]
    assert lp.way_back(CombinedLoader(make())) == way


def test_two_loaders_have_a_position_only_if_both_have() -> None:
    assert lp.way_back(CombinedLoader([csr(), csr()])) == lp.STATE
    assert lp.way_back(CombinedLoader([csr(), DataLoader(ROWS, 2)])) == lp.STREAM
    assert lp.way_back(CombinedLoader([DataLoader(ROWS, 2), DataLoader(ROWS, 2)])) == lp.STREAM


def test_a_loader_is_described_by_what_its_batches_depend_on() -> None:
    assert lp.described([DataLoader(ROWS, 4), DataLoader(Stream(), 2), csr()]) == [
        {"kind": "DataLoader", "rows": 6, "batch_size": 4, "batches": 2, "workers": 0},
        {"kind": "DataLoader", "rows": None, "batch_size": 2, "batches": None, "workers": 0},
        {"kind": "CSRLoader", "rows": None, "batch_size": 2, "batches": 3, "workers": 0},
    ]


def test_persistent_workers_count_once_they_have_been_started() -> None:
    loader = DataLoader(ROWS, 2, num_workers=1, persistent_workers=True)
    assert lp.persistent(loader)
    assert not lp.has_workers(loader)
    next(iter(loader))
    assert lp.has_workers(loader)
    assert not lp.persistent(DataLoader(ROWS, 2, num_workers=1))
    assert (lp.of_torchdata(StatefulDataLoader(ROWS)), lp.of_torchdata(loader)) == (True, False)
