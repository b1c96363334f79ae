"""Who liked what: a CSR matrix with its user ids and its item vocabulary."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import scipy.sparse as sp

from mvae.data.ratings import titles_of
from mvae.errors import DataError


@dataclass(frozen=True)
class Interactions:
    """Implicit feedback: 1 where a user liked an item, nothing elsewhere.

    Attributes:
        matrix: CSR matrix [num_users, num_items] of float32 ones.
        user_ids: row → user id.
        item_ids: column → item id. This list is the **item vocabulary**: without it a column of the matrix, a row
            of `decoder.2.weight` or an entry of the model's output means nothing.
        titles: item id → title, for the items that have one.
        source: the name of the data set, such as `ml-100k`, where it has one.
    """

    matrix: sp.csr_matrix
    user_ids: Sequence[Hashable]
    item_ids: Sequence[Hashable]
    titles: dict[Hashable, str] = field(default_factory=dict, repr=False)
    source: str | None = None

    def __post_init__(self) -> None:
        if self.matrix.shape != (len(self.user_ids), len(self.item_ids)):
            raise DataError(
                f"The matrix is {self.matrix.shape[0]} × {self.matrix.shape[1]}, but there are {len(self.user_ids)} "
                f"user ids and {len(self.item_ids)} item ids. Expected one id for each row and column."
            )

    @property
    def num_users(self) -> int:
        """Rows of the matrix."""
        return len(self.user_ids)

    @property
    def num_items(self) -> int:
        """Columns of the matrix."""
        return len(self.item_ids)

    @classmethod
    def from_ratings(cls, ratings: pd.DataFrame, min_rating: float = 4.0, min_per_user: int = 5) -> Interactions:
        """Ratings of at least `min_rating` become interactions; users with fewer than `min_per_user` go.

        The thresholds are those of Liang et al. 2018, section 4.1. A table without a `rating` column is taken as
        interactions already. A user who rated an item twice counts once.

        Raises:
            DataError: a missing column, an empty id, or nobody left.
        """
        for column in ("user_id", "item_id"):
            if column not in ratings:
                raise DataError(f"The ratings have no column {column!r}, only {list(ratings.columns)}.")
            if ratings[column].isna().any():
                raise DataError(f"{column} is empty in {int(ratings[column].isna().sum()):,} rows of the ratings.")
        liked = ratings[ratings["rating"] >= min_rating] if "rating" in ratings else ratings
        liked = liked.drop_duplicates(["user_id", "item_id"])
        per_user = liked["user_id"].map(liked["user_id"].value_counts())
        kept = liked[per_user >= min_per_user]
        if kept.empty:
            most = int(per_user.max()) if len(per_user) else 0
            rated, lower = (f" rated {min_rating:g} or more", "min_rating or ") if "rating" in ratings else ("", "")
            raise DataError(
                f"No user is left: of {ratings['user_id'].nunique():,} users none has {min_per_user} items{rated} "
                f"(the most is {most}). Lower {lower}min_per_user."
            )
        user_codes, user_ids = pd.factorize(kept["user_id"], sort=True)
        item_codes, item_ids = pd.factorize(kept["item_id"], sort=True)
        matrix = sp.csr_matrix(
            (np.ones(len(kept), np.float32), (user_codes, item_codes)), shape=(len(user_ids), len(item_ids))
        )
        return cls(matrix, user_ids.tolist(), item_ids.tolist(), titles_of(kept), ratings.attrs.get("source"))
