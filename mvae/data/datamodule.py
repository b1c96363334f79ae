"""The split of Liang et al. 2018 ("strong generalisation"), as a Lightning data module."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch

from mvae.data.interactions import Interactions
from mvae.data.loader import CSRLoader
from mvae.data.vocabulary import VocabularyDataModule
from mvae.errors import DataError

#: With so many items or more, training batches are sparse: at 3,000 a step takes three quarters of the time, at 6,807
#: half. With fewer, the plain way is kept, which lesson 01 explains: at 1,447 items it costs 6 ms of 26.
SPARSE_FROM = 3_000


class InteractionsDataModule(VocabularyDataModule):
    """Users the model trains on, and users it has never seen to validate and test it.

    Of each held-out user, `fold_in` of the items are shown to the model and the rest are to be predicted
    (Liang et al. 2018, section 4.1).

    The item vocabulary travels in the checkpoint (`VocabularyDataModule`).

    Args:
        interactions: the data.
        batch_size: users per training batch, of all processes together.
        num_val_users, num_test_users: users held out. Default: 100 and 200, or a fifth and a quarter of the users
            where there are too few for that.
        fold_in: share of a held-out user's items that the model is shown.
        seed: decides the split and the order of the training batches.

    Raises:
        DataError: not enough users, or a held-out user with a single item.
    """

    def __init__(
        self,
        interactions: Interactions,
        *,
        batch_size: int = 128,
        num_val_users: int | None = None,
        num_test_users: int | None = None,
        fold_in: float = 0.8,
        seed: int = 0,
    ) -> None:
        super().__init__(interactions)
        if batch_size < 1:
            raise DataError(f"batch_size is {batch_size}; expected at least 1.")
        if not 0 < fold_in < 1:
            raise DataError(f"fold_in is {fold_in}; expected a share between 0 and 1, such as 0.8.")
        if seed < 0:
            raise DataError(f"seed is {seed}; expected 0 or more.")
        self.batch_size = batch_size
        self.seed = seed
        self.layout = torch.sparse_csr if interactions.num_items >= SPARSE_FROM else torch.strided
        n = interactions.num_users
        num_val = min(100, n // 5) if num_val_users is None else num_val_users
        num_test = min(200, n // 4) if num_test_users is None else num_test_users
        if num_val < 1 or num_test < 1 or num_val + num_test >= n:
            raise DataError(
                f"{n} users cannot be split into {num_val} for validation, {num_test} for test and at least 1 to "
                "train on. Pass a smaller num_val_users and num_test_users, or use more data."
            )
        rng = np.random.default_rng(seed)
        order = rng.permutation(n)
        matrix = interactions.matrix
        self.train = matrix[np.sort(order[num_val + num_test :])]
        self.val_fold_in, self.val_held_out = split_items(matrix[order[:num_val]], fold_in, rng)
        test_rows = order[num_val : num_val + num_test]
        self.test_fold_in, self.test_held_out = split_items(matrix[test_rows], fold_in, rng)

    def train_dataloader(self) -> CSRLoader:
        return CSRLoader(
            self.train,
            batch_size=self.batch_size,
            shuffle=True,
            seed=self.seed,
            layout=self.layout,
            share=self.share,
        )

    def val_dataloader(self) -> CSRLoader:
        return self._held_out(self.val_fold_in, self.val_held_out)

    def test_dataloader(self) -> CSRLoader:
        return self._held_out(self.test_fold_in, self.test_held_out)

    def _held_out(self, fold_in: sp.csr_matrix, held_out: sp.csr_matrix) -> CSRLoader:
        """Dense batches, as metrics need them, of so many users that each of their matrices stays below 16 MB."""
        users = max(1, min(1024, 4_000_000 // self.num_items))
        return CSRLoader(fold_in, held_out, batch_size=users, share=self.share)


def split_items(matrix: sp.csr_matrix, fold_in: float, rng: np.random.Generator) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """Split each row's items into a part that is shown and a part to predict (at least one item each)."""
    counts = np.diff(matrix.indptr)
    if counts.min(initial=2) < 2:
        raise DataError(
            "A held-out user has fewer than 2 items, so there is nothing left to predict. "
            "Build the interactions with min_per_user of at least 2 (5 is usual)."
        )
    shown = np.ones(matrix.nnz, dtype=bool)
    for start, count in zip(matrix.indptr, counts, strict=False):
        num_shown = int(fold_in * count + 1e-9)  # 1e-9: 0.8 × 5 is 4, whatever floating point says
        num_shown = min(max(1, num_shown), count - 1)
        shown[start + rng.choice(count, size=count - num_shown, replace=False)] = False
    return _keep(matrix, shown), _keep(matrix, ~shown)


def _keep(matrix: sp.csr_matrix, entries: np.ndarray) -> sp.csr_matrix:
    indptr = np.concatenate([[0], np.cumsum(entries)])[matrix.indptr]
    return sp.csr_matrix((matrix.data[entries], matrix.indices[entries], indptr), shape=matrix.shape)
