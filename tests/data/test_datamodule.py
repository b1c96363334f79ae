"""InteractionsDataModule: users never seen in training, four fifths of their items shown, one fifth to predict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given
from hypothesis import strategies as st

from mvae import DataError, Interactions, InteractionsDataModule, synthetic
from mvae.data.datamodule import split_items


def parts(datamodule: InteractionsDataModule) -> dict[str, sp.csr_matrix]:
    names = ("train", "val_fold_in", "val_held_out", "test_fold_in", "test_held_out")
    return {name: getattr(datamodule, name) for name in names}


def whole_rows(datamodule: InteractionsDataModule) -> list[tuple]:
    """The users of all parts, each as the tuple of the items liked."""
    p = parts(datamodule)
    matrices = (p["train"], p["val_fold_in"] + p["val_held_out"], p["test_fold_in"] + p["test_held_out"])
    return [tuple(row.nonzero()[0]) for matrix in matrices for row in matrix.toarray()]


def test_every_user_is_in_exactly_one_part(interactions: Interactions, datamodule: InteractionsDataModule) -> None:
    everybody = [tuple(row.nonzero()[0]) for row in interactions.matrix.toarray()]
    assert len(set(everybody)) > 140  # so that a row nearly always tells who it is
    assert sorted(whole_rows(datamodule)) == sorted(everybody)


@pytest.mark.parametrize(
    ("users", "sizes"),
    [(1_000, (700, 100, 200)), (943, (643, 100, 200)), (150, (83, 30, 37)), (5, (3, 1, 1))],
)
def test_by_default_100_and_200_are_held_out_or_a_share_of_few(users: int, sizes: tuple[int, int, int]) -> None:
    made = InteractionsDataModule(synthetic(users, 20, interactions_per_user=6))
    assert (made.train.shape[0], made.val_fold_in.shape[0], made.test_fold_in.shape[0]) == sizes


def test_the_numbers_held_out_can_be_chosen(interactions: Interactions) -> None:
    made = InteractionsDataModule(interactions, num_val_users=10, num_test_users=20)
    assert [matrix.shape[0] for matrix in parts(made).values()] == [120, 10, 10, 20, 20]


def test_shown_and_hidden_items_are_different_items(datamodule: InteractionsDataModule) -> None:
    for stage in ("val", "test"):
        shown, hidden = parts(datamodule)[f"{stage}_fold_in"], parts(datamodule)[f"{stage}_held_out"]
        assert shown.multiply(hidden).nnz == 0
        assert shown.nnz > 0
        assert (hidden.sum(axis=1) >= 1).all()


def rows_of(counts: list[int]) -> sp.csr_matrix:
    dense = np.zeros((len(counts), max(counts)), np.float32)
    for row, count in enumerate(counts):
        dense[row, :count] = 1
    return sp.csr_matrix(dense)


def test_four_fifths_of_the_items_are_shown_rounded_down() -> None:
    counts = [2, 4, 5, 9, 10, 14, 15, 100]
    shown, hidden = split_items(rows_of(counts), 0.8, np.random.default_rng(0))
    assert np.diff(shown.indptr).tolist() == [1, 3, 4, 7, 8, 11, 12, 80]
    assert (shown + hidden).toarray().tolist() == rows_of(counts).toarray().tolist()


@given(
    counts=st.lists(st.integers(2, 40), min_size=1, max_size=8),
    fold_in=st.floats(0, 1, exclude_min=True, exclude_max=True),
    seed=st.integers(0, 2**32),
)
def test_at_least_one_item_is_on_each_side(counts: list[int], fold_in: float, seed: int) -> None:
    whole = rows_of(counts)
    shown, hidden = split_items(whole, fold_in, np.random.default_rng(seed))
    assert np.diff(shown.indptr).min() >= 1
    assert np.diff(hidden.indptr).min() >= 1
    assert ((shown + hidden) != whole).nnz == 0
    assert (np.abs(np.diff(shown.indptr) - fold_in * np.array(counts)) <= 1 + 1e-6).all()


def test_which_items_are_hidden_is_drawn_and_not_their_order() -> None:
    _, hidden = split_items(rows_of([10] * 400), 0.8, np.random.default_rng(0))
    assert (hidden.sum(axis=0) > 40).all()  # 80 of 400 are expected in each column
    assert (hidden.sum(axis=0) < 120).all()


def test_the_seed_decides_the_split(interactions: Interactions) -> None:
    def split(seed: int) -> list[tuple]:
        return [tuple(m.indices) for m in parts(InteractionsDataModule(interactions, seed=seed)).values()]

    assert split(3) == split(3)
    assert all(a != b for a, b in zip(split(3), split(4), strict=True))


def test_a_held_out_user_with_one_item_is_refused() -> None:
    made = Interactions(sp.csr_matrix(np.eye(10, dtype=np.float32)), range(10), range(10))
    with pytest.raises(DataError, match="fewer than 2 items"):
        InteractionsDataModule(made)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"fold_in": 0.0}, "fold_in is 0.0"),
        ({"fold_in": 1.0}, "fold_in is 1.0"),
        ({"fold_in": float("nan")}, "fold_in is nan"),
        ({"num_val_users": 0}, "150 users cannot be split into 0 for validation"),
        ({"num_test_users": 0}, "0 for test"),
        ({"num_val_users": 100, "num_test_users": 50}, "100 for validation, 50 for test"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(interactions: Interactions, options: dict, said: str) -> None:
    with pytest.raises(DataError, match=said):
        InteractionsDataModule(interactions, **options)


@pytest.mark.parametrize("users", [1, 2, 4])
def test_too_few_users_are_refused(users: int) -> None:
    with pytest.raises(DataError, match=f"{users} users cannot be split"):
        InteractionsDataModule(synthetic(users, 20, interactions_per_user=6))


def test_the_loaders_give_the_parts(datamodule: InteractionsDataModule) -> None:
    train = torch.cat(list(datamodule.train_dataloader()))
    assert sorted(map(tuple, train.tolist())) == sorted(map(tuple, datamodule.train.toarray().tolist()))
    assert len(next(iter(datamodule.train_dataloader()))) == 32
    for stage in ("val", "test"):
        ((fold_in, held_out),) = list(getattr(datamodule, f"{stage}_dataloader")())
        assert (fold_in.numpy() == parts(datamodule)[f"{stage}_fold_in"].toarray()).all()
        assert (held_out.numpy() == parts(datamodule)[f"{stage}_held_out"].toarray()).all()


def test_training_batches_are_shuffled_and_the_others_are_not(datamodule: InteractionsDataModule) -> None:
    loader = datamodule.train_dataloader()
    assert not torch.equal(torch.cat(list(loader)), torch.cat(list(loader)))
    assert (loader.seed, datamodule.val_dataloader().shuffle) == (datamodule.seed, False)


# ---- the vocabulary in the checkpoint --------------------------------------------------------------------------


def test_the_state_is_the_vocabulary_in_plain_types(datamodule: InteractionsDataModule) -> None:
    assert datamodule.num_items == 60
    assert datamodule.state_dict() == {"item_ids": [f"item-{i:02d}" for i in range(60)], "source": "made-up"}


def test_resuming_on_the_same_items_is_fine(datamodule: InteractionsDataModule) -> None:
    datamodule.load_state_dict(datamodule.state_dict())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda ids: ids[::-1], "the same items stand in another order"),
        (lambda ids: ids[:-2], "0 of its items are not in this data, 2 here are not in it"),
        (lambda ids: [*ids[1:], "new"], "1 of its items are not in this data, 1 here are not in it"),
    ],
)
def test_resuming_on_other_items_is_refused(
    datamodule: InteractionsDataModule, change: Callable[[list], list], said: str
) -> None:
    with pytest.raises(DataError, match=said):
        datamodule.load_state_dict({"item_ids": change(datamodule.item_ids)})


def test_changing_the_list_of_items_changes_nothing_inside(interactions: Interactions) -> None:
    made = InteractionsDataModule(replace(interactions))
    made.item_ids.clear()
    assert len(made.item_ids) == made.num_items == 60
