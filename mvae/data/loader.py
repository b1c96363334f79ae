"""Batches cut from a CSR matrix."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch


class CSRLoader:
    """Yields dense float32 batches [batch, num_items] from the rows of one or more CSR matrices.

    A Lightning loader is anything with ``__iter__`` and ``__len__``. Cutting a whole batch out of the matrix at
    once is far faster than a ``DataLoader`` that fetches and stacks one row at a time.

    Args:
        matrices: CSR matrices with the same number of rows. One gives tensors, several give tuples of tensors.
        batch_size: rows per batch; the last batch may be smaller.
        shuffle: a new order every epoch, drawn from ``(seed, epoch)``.
    """

    def __init__(self, *matrices: sp.csr_matrix, batch_size: int, shuffle: bool = False, seed: int = 0) -> None:
        self.matrices = matrices
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.epoch = 0  # counts the passes begun

    def __len__(self) -> int:
        return -(-self.matrices[0].shape[0] // self.batch_size)

    def __iter__(self) -> Iterator[Any]:
        rows = np.arange(self.matrices[0].shape[0])
        if self.shuffle:
            np.random.default_rng((self.seed, self.epoch)).shuffle(rows)
        self.epoch += 1
        for start in range(0, len(rows), self.batch_size):
            chosen = rows[start : start + self.batch_size]
            batch = tuple(torch.from_numpy(matrix[chosen].toarray()) for matrix in self.matrices)
            yield batch if len(batch) > 1 else batch[0]
