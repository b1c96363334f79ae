"""synthetic(): made-up data that behaves as real data does where it matters."""

from __future__ import annotations

import numpy as np
import pytest

from mvae import EASE, DataError, InteractionsDataModule, Popularity, evaluate, synthetic


def test_the_same_arguments_give_the_same_matrix() -> None:
    def made(seed: int) -> np.ndarray:
        return synthetic(50, 40, interactions_per_user=8, seed=seed).matrix.toarray()

    assert (made(1) == made(1)).all()
    assert (made(1) != made(2)).any()


@pytest.mark.parametrize(("users", "items", "mean"), [(500, 200, 20.0), (1_500, 300, 30.0)])
def test_sizes_are_as_asked(users: int, items: int, mean: float) -> None:
    made = synthetic(users, items, interactions_per_user=mean)
    assert (made.num_users, made.num_items) == (users, items)
    assert (len(made.user_ids), len(made.item_ids)) == (users, items)
    per_user = np.diff(made.matrix.indptr)
    assert per_user.mean() == pytest.approx(mean, rel=0.1)
    assert per_user.min() >= 5
    assert per_user.max() <= items // 2
    assert per_user.std() > 0.4 * mean  # some watch a lot more than others


def test_the_matrix_is_ones_without_doubles_and_sorted() -> None:
    matrix = synthetic(1_100, 60, interactions_per_user=10).matrix
    assert set(matrix.data) == {1.0}
    assert matrix.dtype == np.float32
    assert all((np.diff(row) > 0).all() for row in np.split(matrix.indices, matrix.indptr[1:-1]))


def test_popularity_has_a_long_tail_that_is_not_sorted_by_column() -> None:
    liked = np.asarray(synthetic(1_000, 500).matrix.sum(axis=0)).ravel()
    ordered = np.sort(liked)[::-1]
    assert ordered[:100].sum() > 0.4 * ordered.sum()  # a fifth of the items, two fifths of the interactions
    assert ordered[-250:].sum() < 0.3 * ordered.sum()
    assert abs(np.corrcoef(liked, np.arange(500))[0, 1]) < 0.2


def test_there_is_structure_to_learn_beyond_popularity() -> None:
    datamodule = InteractionsDataModule(synthetic())
    loader = datamodule.test_dataloader()
    ease = evaluate(EASE().fit(datamodule.train), loader)["ndcg@100"]
    popular = evaluate(Popularity().fit(datamodule.train), loader)["ndcg@100"]
    assert ease > 1.25 * popular


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_users": 0},
        {"num_items": 9},
        {"interactions_per_user": 4.0},
        {"num_items": 20, "interactions_per_user": 11.0},
    ],
)
def test_sizes_that_cannot_be_are_refused(arguments: dict) -> None:
    with pytest.raises(DataError, match="expected at least 1 user"):
        synthetic(**arguments)


def test_with_factors_there_are_no_groups_and_still_something_to_learn() -> None:
    made = synthetic(1_000, 500, num_factors=8)
    assert np.diff(made.matrix.indptr).mean() == pytest.approx(40, rel=0.1)
    datamodule = InteractionsDataModule(made)
    loader = datamodule.test_dataloader()
    ease = evaluate(EASE().fit(datamodule.train), loader)["ndcg@100"]
    assert ease > 1.25 * evaluate(Popularity().fit(datamodule.train), loader)["ndcg@100"]
