"""CSRLoader: the batches are the dense rows, every epoch in a new order that (seed, epoch) decides."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from mvae.data import CSRLoader


def matrix(rows: int = 10, columns: int = 4, seed: int = 0) -> sp.csr_matrix:
    rng = np.random.default_rng(seed)
    shape = (rows, columns)
    return sp.csr_matrix(rng.random(shape, dtype=np.float32) * (rng.random(shape) < 0.5))


@given(rows=st.integers(1, 20), batch_size=st.integers(1, 25), seed=st.integers(0, 100))
def test_batches_are_the_dense_rows_in_order(rows: int, batch_size: int, seed: int) -> None:
    source = matrix(rows, seed=seed)
    loader = CSRLoader(source, batch_size=batch_size)
    batches = list(loader)
    assert len(batches) == len(loader)
    assert torch.cat(batches).tolist() == source.toarray().tolist()
    assert {len(batch) for batch in batches[:-1]} <= {batch_size}
    assert 1 <= len(batches[-1]) <= batch_size


def test_the_last_batch_may_be_short() -> None:
    assert [len(batch) for batch in CSRLoader(matrix(10), batch_size=4)] == [4, 4, 2]
    assert [len(batch) for batch in CSRLoader(matrix(8), batch_size=4)] == [4, 4]


def test_batches_are_dense_float32() -> None:
    (batch,) = CSRLoader(matrix(), batch_size=10)
    assert (batch.dtype, batch.layout) == (torch.float32, torch.strided)


def test_several_matrices_give_tuples_of_the_same_rows() -> None:
    first, second = matrix(seed=1), matrix(seed=2)
    loader = CSRLoader(first, second, batch_size=3, shuffle=True, seed=5)
    pairs = [(a, b) for one, other in loader for a, b in zip(one.tolist(), other.tolist(), strict=True)]
    expected = list(zip(first.toarray().tolist(), second.toarray().tolist(), strict=True))
    assert sorted(pairs) == sorted(expected)
    assert pairs != expected


def order(loader: CSRLoader) -> list[int]:
    return torch.cat(list(loader)).argmax(dim=1).tolist()


def numbered(rows: int = 30, **options: int) -> CSRLoader:
    return CSRLoader(sp.eye_array(rows, format="csr", dtype=np.float32), batch_size=7, shuffle=True, **options)


def test_each_epoch_has_an_order_of_its_own_and_everybody_in_it() -> None:
    loader = numbered()
    epochs = [order(loader) for _ in range(3)]
    assert all(sorted(epoch) == list(range(30)) for epoch in epochs)
    assert len(set(map(tuple, [*epochs, range(30)]))) == 4


def test_seed_and_epoch_decide_the_order() -> None:
    one, other = numbered(seed=1), numbered(seed=1)
    epochs = [order(one) for _ in range(3)]
    assert [order(other) for _ in range(3)] == epochs
    assert order(numbered(seed=2)) != epochs[0]
    later = numbered(seed=1)
    later.epoch = 2
    assert order(later) == epochs[2]


def test_without_shuffling_every_epoch_is_alike() -> None:
    loader = CSRLoader(matrix(), batch_size=3)
    first, second = list(loader), list(loader)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("workers_seed", [0, 1])
def test_the_order_does_not_hang_on_the_global_generators(workers_seed: int) -> None:
    np.random.seed(workers_seed)
    torch.manual_seed(workers_seed)
    assert order(numbered(seed=9))[:5] == order(numbered(seed=9))[:5]


# ---- several processes -----------------------------------------------------------------------------------------


@given(
    rows=st.integers(1, 40),
    batch_size=st.integers(1, 15),
    processes=st.integers(1, 4),
    seed=st.integers(0, 100),
    layout=st.sampled_from([torch.strided, torch.sparse_csr]),
)
def test_processes_share_the_batches_that_one_would_take(
    rows: int, batch_size: int, processes: int, seed: int, layout: torch.layout
) -> None:
    assume(rows >= processes)
    source = sp.eye_array(rows, format="csr", dtype=np.float32)
    options = {"batch_size": batch_size, "shuffle": True, "seed": seed}
    alone = CSRLoader(source, **options)
    shares = [CSRLoader(source, **options, layout=layout, share=(number, processes)) for number in range(processes)]
    for _ in range(2):  # epochs
        for together, *parts in zip(alone, *shares, strict=True):
            dense = [part.to_dense() for part in parts]
            assert sorted(torch.cat(dense).tolist()) == sorted(together.tolist())
            assert max(map(len, dense)) - min(map(len, dense)) <= 1


@given(rows=st.integers(1, 40), batch_size=st.integers(1, 15), processes=st.integers(1, 4))
def test_without_shuffling_processes_share_the_rows_and_none_is_left_without(
    rows: int, batch_size: int, processes: int
) -> None:
    assume(rows >= processes)
    source = sp.eye_array(rows, format="csr", dtype=np.float32)
    shares = [CSRLoader(source, batch_size=batch_size, share=(number, processes)) for number in range(processes)]
    seen = [torch.cat(list(share)).argmax(dim=1).tolist() for share in shares]
    assert all(seen)
    assert sorted(row for rows_seen in seen for row in rows_seen) == list(range(rows))


def test_a_sparse_batch_has_the_same_entries_as_a_dense_one_in_the_order_of_the_columns() -> None:
    source = matrix(10, 8)
    options = {"batch_size": 4, "shuffle": True, "seed": 3}
    for sparse, dense in zip(
        CSRLoader(source, **options, layout=torch.sparse_csr), CSRLoader(source, **options), strict=True
    ):
        assert torch.equal(sparse.to_dense(), dense)
        starts = sparse.crow_indices().tolist()
        rows = [sparse.col_indices()[a:b].tolist() for a, b in pairwise(starts)]
        assert rows == [sorted(row) for row in rows]
