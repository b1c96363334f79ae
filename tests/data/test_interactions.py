"""Interactions: who liked what, and which column is which item."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from mvae import DataError, Interactions


def table(*rows: tuple, columns: tuple[str, ...] = ("user_id", "item_id", "rating")) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(columns))


def pairs(interactions: Interactions) -> set[tuple]:
    """(user id, item id) of every entry of the matrix."""
    entries = interactions.matrix.tocoo()
    users, items = interactions.user_ids, interactions.item_ids
    return {(users[u], items[i]) for u, i in zip(entries.row, entries.col, strict=True)}


def test_a_rating_at_the_threshold_counts_and_one_below_does_not() -> None:
    made = Interactions.from_ratings(table((1, 10, 4.0), (1, 11, 3.5), (1, 12, 5.0)), min_per_user=2)
    assert pairs(made) == {(1, 10), (1, 12)}
    assert made.matrix.dtype == np.float32
    assert made.matrix.data.tolist() == [1.0, 1.0]


def test_the_thresholds_are_those_of_the_paper_unless_told_otherwise() -> None:
    ratings = table(*((1, i, 4) for i in range(5)), *((2, i, 4) for i in range(4)), *((3, i, 3) for i in range(9)))
    assert Interactions.from_ratings(ratings).user_ids == [1]
    assert Interactions.from_ratings(ratings, min_rating=3).user_ids == [1, 3]
    assert Interactions.from_ratings(ratings, min_per_user=4).user_ids == [1, 2]


def test_a_table_without_ratings_is_all_interactions() -> None:
    ratings = table((1, 10), (1, 11), (2, 10), (2, 12), columns=("user_id", "item_id"))
    assert pairs(Interactions.from_ratings(ratings, min_per_user=2)) == {(1, 10), (1, 11), (2, 10), (2, 12)}


def test_an_item_rated_twice_counts_once_and_not_towards_the_minimum() -> None:
    ratings = table((1, 10, 4), (1, 10, 5), (1, 11, 4), (2, 10, 5), (2, 10, 5))
    made = Interactions.from_ratings(ratings, min_per_user=2)
    assert made.user_ids == [1]
    assert made.matrix.toarray().tolist() == [[1.0, 1.0]]


def test_the_vocabulary_is_sorted_and_holds_no_item_that_nobody_liked() -> None:
    ratings = table((2, 30, 5), (2, 4, 5), (1, 30, 5), (1, 100, 5), (1, 7, 1), (3, 8, 5))
    made = Interactions.from_ratings(ratings, min_per_user=2)
    assert made.item_ids == [4, 30, 100]
    assert made.user_ids == [1, 2]
    assert pairs(made) == {(2, 30), (2, 4), (1, 30), (1, 100)}


@pytest.mark.parametrize("ids", [(10, 9, 100), ("10", "9", "100")])
def test_ids_are_plain_python_values(ids: tuple) -> None:
    made = Interactions.from_ratings(table(*((ids[0], i, 5) for i in ids)), min_per_user=2)
    assert made.item_ids == sorted(ids)
    assert {type(i) for i in [*made.item_ids, *made.user_ids]} == {type(ids[0])}


def test_titles_are_kept_for_the_items_that_have_one() -> None:
    columns = ("user_id", "item_id", "rating", "title")
    ratings = table((1, 10, 5, "Alien (1979)"), (1, 11, 5, None), (1, 12, 1, "Bad (1980)"), columns=columns)
    assert Interactions.from_ratings(ratings, min_per_user=2).titles == {10: "Alien (1979)"}


def test_the_name_of_the_data_set_is_kept() -> None:
    ratings = table((1, 10, 5), (1, 11, 5))
    ratings.attrs["source"] = "ml-100k"
    assert Interactions.from_ratings(ratings, min_per_user=2).source == "ml-100k"


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 8), st.sampled_from([1, 3, 4, 5])), max_size=60))
def test_the_matrix_holds_the_liked_pairs_and_nothing_else(rows: list[tuple[int, int, int]]) -> None:
    liked = {(user, item) for user, item, rating in rows if rating >= 4}
    expected = {(user, item) for user, item in liked if sum(u == user for u, _ in liked) >= 3}
    if expected:
        made = Interactions.from_ratings(table(*rows), min_per_user=3)
        assert pairs(made) == expected
        assert set(made.matrix.data) == {1.0}
    else:
        with pytest.raises(DataError, match="No user is left"):
            Interactions.from_ratings(table(*rows), min_per_user=3)


@pytest.mark.parametrize("column", ["user_id", "item_id"])
def test_a_missing_column_is_named(column: str) -> None:
    with pytest.raises(DataError, match=f"no column '{column}'"):
        Interactions.from_ratings(table((1, 10, 5)).drop(columns=column))


def test_where_nobody_is_left_the_message_says_how_near_it_was() -> None:
    with pytest.raises(DataError, match=r"of 2 users none has 5 items rated 4 or more \(the most is 3\)"):
        Interactions.from_ratings(table((1, 1, 5), (1, 2, 5), (1, 3, 4), (1, 4, 3), (2, 1, 5)))


def test_a_user_or_an_item_without_an_id_is_refused() -> None:
    for row in ((None, 10, 5), (1, None, 5)):
        with pytest.raises(DataError, match="empty"):
            Interactions.from_ratings(table(row, (1, 11, 5), (1, 12, 5)), min_per_user=1)


@pytest.mark.parametrize("shape", [(2, 4), (3, 3)])
def test_every_row_and_column_has_an_id(shape: tuple[int, int]) -> None:
    with pytest.raises(DataError, match="one id for each row and column"):
        Interactions(sp.csr_matrix(shape), user_ids=[1, 2], item_ids=[1, 2, 3])
