"""What people liked in time order, split by leave-one-out, as a Lightning data module."""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy.sparse as sp

from mvae.data.interactions import Interactions
from mvae.data.loader import CSRLoader
from mvae.data.vocabulary import VocabularyDataModule
from mvae.errors import DataError


class SequencesDataModule(VocabularyDataModule):
    """Every user's items in time order: the last one is for the test, the one before it for validation.

    Training takes all before those (Sun et al. 2019, section 4.2). A sequence of more than `max_len` items is
    cut into several, from its end. Of items that a user rated in the same second nobody knows which came first: their
    order is drawn from `seed`, as one by item id would be a pattern to learn.

    The item vocabulary travels in the checkpoint (`VocabularyDataModule`).

    Args:
        interactions: who liked what; the item vocabulary is theirs.
        ratings: the table they were made from, with a column `timestamp` (a number, or a date).
        batch_size: sequences per training batch, of all processes together.
        max_len: the longest sequence, BERT4Rec's `max_len`.
        seed: decides the order of ties and of the training batches.

    Raises:
        DataError: no timestamps, an interaction that has none, or a user with fewer than 3 items.
    """

    def __init__(
        self,
        interactions: Interactions,
        ratings: pd.DataFrame,
        *,
        batch_size: int = 32,
        max_len: int = 50,
        seed: int = 0,
    ) -> None:
        super().__init__(interactions)
        if batch_size < 1 or max_len < 2 or seed < 0:
            raise DataError(f"{batch_size=}, {max_len=}, {seed=}: expected at least 1, 2 and 0.")
        self.batch_size, self.max_len, self.seed = batch_size, max_len, seed
        self.sequences = in_time_order(interactions, ratings, seed)
        short = min(map(len, self.sequences))
        if short < 3:
            raise DataError(
                f"A user has {short} items: too few for one to train on, one for validation and one for the test. "
                "Build the interactions with min_per_user of at least 3 (5 is usual)."
            )
        self.train = self._matrix([items[:-2] for items in self.sequences])
        pieces = [items[max(0, end - max_len) : end] for items in self.sequences for end in self._ends(len(items) - 2)]
        self.train_sequences = self._padded(pieces)

    def _ends(self, length: int) -> range:
        return range(length, 0, -self.max_len)

    def _padded(self, pieces: list[np.ndarray]) -> np.ndarray:
        """[pieces, max_len] of int64, padded on the left with `num_items`; of a longer piece the newest items."""
        padded = np.full((len(pieces), self.max_len), self.num_items, dtype=np.int64)
        for row, piece in zip(padded, pieces, strict=True):
            row[-min(len(piece), self.max_len) :] = piece[-self.max_len :]
        return padded

    def _matrix(self, pieces: list[np.ndarray]) -> sp.csr_matrix:
        """[users, items], 1 where the item is in the piece of the user."""
        indptr = np.cumsum([0, *map(len, pieces)])
        indices = np.concatenate(pieces)
        return sp.csr_matrix((np.ones(len(indices), np.float32), indices, indptr), (len(pieces), self.num_items))

    def _leave_one_out(self, newer: int) -> CSRLoader:
        """Batches of (sequences, the same as ones in [users, items], the next item as a one in [users, items])."""
        shown = [items[: -1 - newer] for items in self.sequences]
        following = [items[[-1 - newer]] for items in self.sequences]
        return CSRLoader(
            self._padded(shown), self._matrix(shown), self._matrix(following), batch_size=1024, share=self.share
        )

    def train_dataloader(self) -> CSRLoader:
        return CSRLoader(
            self.train_sequences, batch_size=self.batch_size, shuffle=True, seed=self.seed, share=self.share
        )

    def val_dataloader(self) -> CSRLoader:
        return self._leave_one_out(newer=1)

    def test_dataloader(self) -> CSRLoader:
        return self._leave_one_out(newer=0)


def in_time_order(interactions: Interactions, ratings: pd.DataFrame, seed: int) -> list[np.ndarray]:
    """Each user's columns, the oldest first; equal times in an order drawn from `seed`.

    Raises:
        DataError: no column `timestamp`, or an interaction without a time in it.
    """
    if "timestamp" not in ratings:
        raise DataError(
            f"The ratings have no column 'timestamp', only {list(ratings.columns)}: nothing says what came first."
        )
    pairs = interactions.matrix.sorted_indices().tocoo()
    liked = pd.DataFrame({"user": pairs.row, "item": pairs.col})
    times = pd.DataFrame(
        {
            "user": pd.Index(interactions.user_ids).get_indexer(pd.Index(ratings["user_id"])),
            "item": pd.Index(interactions.item_ids).get_indexer(pd.Index(ratings["item_id"])),
            "time": _seconds(ratings["timestamp"]),
        }
    )
    last = times.groupby(["user", "item"], as_index=False)["time"].max()
    liked = liked.merge(last, on=["user", "item"], how="left", validate="one_to_one")
    if liked["time"].isna().any():
        raise DataError(
            f"{int(liked['time'].isna().sum()):,} of {len(liked):,} interactions have no time in the ratings: expected "
            "the table that they were made from, with a number or a date in each timestamp."
        )
    ties = np.random.default_rng(seed).random(len(liked))
    order = np.lexsort((ties, liked["time"], liked["user"]))
    starts = interactions.matrix.indptr[1:-1]
    return np.split(liked["item"].to_numpy(np.int64)[order], starts)


def _seconds(timestamps: pd.Series) -> pd.Series:
    """Numbers as they are, dates as nanoseconds: only their order matters. What is neither becomes empty."""
    numbers = pd.to_numeric(timestamps, errors="coerce")
    if numbers.notna().any():
        return numbers
    dates = pd.to_datetime(timestamps, errors="coerce", utc=True, format="ISO8601")
    return dates.astype("int64").where(dates.notna())
