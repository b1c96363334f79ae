"""Batches cut from CSR matrices and arrays."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from mvae.errors import DataError
from mvae.layers.sparse import csr


class CSRLoader:
    """Yields dense batches [batch, columns] from the rows of one or more CSR matrices or arrays.

    A Lightning loader is anything with `__iter__` and `__len__`. Cutting a whole batch out of the matrix at
    once is far faster than a `DataLoader` that fetches and stacks one row at a time.

    With `state_dict` and `load_state_dict` it can also go on in the middle of an epoch: Lightning saves the one
    in the checkpoint, under `loops`, and calls the other when training resumes.

    Several processes share each batch: process r of P takes the rows r, r + P, … of it, so that together they take the
    batches that one process would take, in the same order. Without `shuffle`, as for validation, they share the rows
    of the matrices instead, and no process is left without any.

    Args:
        matrices: CSR matrices or arrays with the same number of rows. One gives tensors, several give tuples of
            tensors.
        batch_size: rows per batch, of all processes together; the last batch may be smaller.
        shuffle: a new order every epoch, drawn from `(seed, epoch)`.
        layout: `torch.sparse_csr` gives a CSR matrix's rows as a sparse CSR tensor [batch, columns], with an entry for
            each non-zero in the order of the columns.
        share: (r, P), the number of this process, from 0, and how many there are.

    Raises:
        DataError: fewer rows than processes.
    """

    #: Where it stands does not depend on how many processes there are: another number of them can go on from there.
    for_any_number_of_processes = True

    def __init__(
        self,
        *matrices: sp.csr_matrix | np.ndarray,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        layout: torch.layout = torch.strided,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        number, processes = share
        if matrices[0].shape[0] < processes:
            raise DataError(
                f"{matrices[0].shape[0]} rows cannot be shared by {processes} processes. Use fewer of them."
            )
        if not shuffle:
            matrices = tuple(matrix[number::processes] for matrix in matrices) if processes > 1 else matrices
            number, processes = 0, 1
        self.number, self.processes = number, processes
        self.matrices = matrices
        self.layout = layout
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.epoch = 0  # counts the passes begun
        self.batch = 0  # counts the batches given out in the last of them
        self.start = 0  # where the next pass begins: not at 0 if it goes on with one that was cut short
        self.batch_sampler = SimpleNamespace(sampler=self)  # where Lightning looks for set_epoch

    def __len__(self) -> int:
        return -(-int(self.matrices[0].shape[0]) // self.batch_size)

    def __iter__(self) -> Iterator[Any]:
        start, self.start = self.start, 0
        return self._batches(start)

    def _batches(self, start: int) -> Iterator[Any]:
        rows = np.arange(self.matrices[0].shape[0])
        if self.shuffle:
            np.random.default_rng((self.seed, self.epoch)).shuffle(rows)
        self.epoch += 1
        for number in range(start, len(self)):
            together = rows[number * self.batch_size : (number + 1) * self.batch_size]
            chosen = together[self.number :: self.processes]
            batch = tuple(_tensor(matrix[chosen], self.layout) for matrix in self.matrices)
            self.batch = number + 1
            yield batch if len(batch) > 1 else batch[0]

    def set_epoch(self, epoch: int) -> None:
        """The number of the pass that comes next. Lightning calls it, so that a resumed run has the same orders."""
        self.epoch = epoch

    def state_dict(self) -> dict[str, int]:
        """How far the pass under way has come, and what its order follows from."""
        return {"epoch": self.epoch, "batch": self.batch} | self._order()

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Go on where another loader stood.

        Raises:
            DataError: it stood in the middle of a pass over other rows, or in another order.
        """
        cut_short = state_dict["batch"] not in (0, len(self))
        if cut_short and not self._order().items() <= state_dict.items():
            saved = {name: state_dict.get(name) for name in self._order()}
            raise DataError(
                f"The checkpoint is from the middle of an epoch with {saved}, and this data has {self._order()}: its "
                "next batch cannot be found. Use the data, batch_size and seed it was trained with."
            )
        self.epoch = state_dict["epoch"] - cut_short
        self.start = state_dict["batch"] if cut_short else 0

    def _order(self) -> dict[str, int]:
        return {"rows": self.matrices[0].shape[0], "batch_size": self.batch_size, "seed": self.seed}


def _tensor(rows: sp.csr_matrix | np.ndarray, layout: torch.layout) -> torch.Tensor:
    if isinstance(rows, np.ndarray):
        return torch.from_numpy(rows)
    if layout == torch.strided:
        return torch.from_numpy(rows.toarray())
    rows.sort_indices()
    indptr, indices = (torch.from_numpy(part.astype(np.int64)) for part in (rows.indptr, rows.indices))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*Sparse CSR tensor support is in beta")
        return csr(indptr, indices, torch.from_numpy(rows.data), rows.shape)
