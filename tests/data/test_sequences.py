"""SequencesDataModule: time order, leave-one-out, windows padded on the left."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mvae import DataError, Interactions, Popularity, SequencesDataModule, evaluate
from mvae.metrics import NEXT_ITEM


def table(*rows: tuple) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])


def made(ratings: pd.DataFrame, **options: int) -> SequencesDataModule:
    return SequencesDataModule(Interactions.from_ratings(ratings, min_per_user=1), ratings, **options)


def ids(data: SequencesDataModule, user: int = 0) -> list:
    return [data.item_ids[column] for column in data.sequences[user]]


@given(
    st.lists(
        st.lists(
            st.tuples(st.integers(0, 30), st.integers(0, 10**9)), min_size=3, max_size=20, unique_by=lambda p: p[0]
        ).filter(lambda pairs: len({time for _, time in pairs}) == len(pairs)),
        min_size=1,
        max_size=5,
    ),
    st.randoms(),
)
def test_every_users_items_stand_in_time_order_whatever_the_order_of_the_rows(people: list, random: object) -> None:
    rows = [(user, item, time) for user, pairs in enumerate(people) for item, time in pairs]
    random.shuffle(rows)
    data = made(table(*rows))
    for user, pairs in enumerate(people):
        assert ids(data, user) == [item for item, _ in sorted(pairs, key=lambda pair: pair[1])]


def test_items_of_one_second_are_in_an_order_that_the_seed_decides() -> None:
    ratings = table(*[("a", f"{i:02d}", 5) for i in range(20)])
    orders = [ids(made(ratings, seed=seed)) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert orders[0] != sorted(orders[0])
    assert ids(made(ratings.iloc[::-1])) == orders[0]


@pytest.mark.parametrize("times", [["3", "1", "20"], ["2024-05-02", "2024-01-31", "2024-05-02T10:00:00"], [3.5, -1, 4]])
def test_times_may_be_numbers_or_dates_and_text(times: list) -> None:
    assert ids(made(table(*zip("aaa", "xyz", times, strict=True)))) == ["y", "x", "z"]


def test_the_last_item_is_the_test_and_the_one_before_it_validates(cycle: SequencesDataModule) -> None:
    (val,), (test,) = cycle.val_dataloader(), cycle.test_dataloader()
    for user, items in enumerate(cycle.sequences):
        for (sequences, seen, held_out), newer in ((val, 1), (test, 0)):
            shown = items[: -1 - newer]
            assert held_out[user].nonzero().ravel().tolist() == [items[-1 - newer]]
            assert seen[user].nonzero().ravel().tolist() == sorted(shown)
            padding = [20] * (10 - len(shown))
            assert sequences[user].tolist() == padding + shown[-10:].tolist()
        assert cycle.train[[user]].indices.tolist() == items[:-2].tolist()


def test_training_sees_all_but_the_last_two_once(cycle: SequencesDataModule) -> None:
    loader = cycle.train_dataloader()
    rows = torch.cat(list(loader))
    assert (rows.dtype, rows.shape[1]) == (torch.int64, 10)
    found = sorted(rows[rows != 20].tolist())
    assert found == sorted(np.concatenate([items[:-2] for items in cycle.sequences]).tolist())
    lengths = (rows != 20).sum(dim=1)
    assert all((row[-n:] != 20).all() and (row[:-n] == 20).all() for row, n in zip(rows, lengths.tolist(), strict=True))
    steps = rows[:, 1:] - rows[:, :-1]
    assert set(steps[(rows != 20)[:, :-1]].tolist()) == {1, -19}  # nothing is missing within a piece


def test_a_long_sequence_is_cut_from_its_end() -> None:
    data = made(table(*[("a", i, i) for i in range(12)]), max_len=4)
    assert data.train_sequences.tolist() == [[6, 7, 8, 9], [2, 3, 4, 5], [12, 12, 0, 1]]


def test_batches_come_in_a_new_order_every_epoch(cycle: SequencesDataModule) -> None:
    loader = cycle.train_dataloader()
    first, second = torch.cat(list(loader)), torch.cat(list(loader))
    assert not torch.equal(first, second)
    assert sorted(first.tolist()) == sorted(second.tolist())
    assert torch.equal(torch.cat(list(cycle.train_dataloader())), first)


def test_baselines_are_measured_on_the_same_task(cycle: SequencesDataModule) -> None:
    scores = evaluate(Popularity().fit(cycle.train), cycle.test_dataloader(), NEXT_ITEM)
    assert set(scores) == {"hr@10", "ndcg@10"}
    assert 0 < scores["ndcg@10"] < scores["hr@10"] < 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.drop(columns="timestamp"), "no column 'timestamp'"),
        (lambda t: t.assign(timestamp=[1, 2, None, 4]), "1 of 4 interactions have no time"),
        (lambda t: t.assign(timestamp="yesterday"), "4 of 4 interactions have no time"),
        (lambda t: t[t["item_id"] != "x"], "1 of 4 interactions have no time"),
    ],
)
def test_ratings_without_times_are_refused(change: object, said: str) -> None:
    whole = table(*[("a", item, i) for i, item in enumerate("wxyz")])
    with pytest.raises(DataError, match=said):
        SequencesDataModule(Interactions.from_ratings(whole, min_per_user=1), change(whole))


def test_a_user_with_two_items_is_refused() -> None:
    with pytest.raises(DataError, match="A user has 2 items"):
        made(table(("a", 1, 1), ("a", 2, 2), ("b", 1, 1), ("b", 2, 2), ("b", 3, 3)))


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"max_len": 1}, {"seed": -1}])
def test_impossible_settings_are_refused(options: dict) -> None:
    with pytest.raises(DataError, match="expected at least"):
        made(table(("a", 1, 1), ("a", 2, 2), ("a", 3, 3)), **options)


def test_the_vocabulary_is_kept_and_checked(cycle: SequencesDataModule, cycle_ratings: pd.DataFrame) -> None:
    assert cycle.state_dict() == {"item_ids": [f"item-{i:02d}" for i in range(20)], "source": "made-up"}
    cycle.load_state_dict(cycle.state_dict())
    other = replace(cycle.interactions, item_ids=[f"other-{i}" for i in range(20)])
    renamed = cycle_ratings.assign(item_id="other-" + cycle_ratings["item_id"].str[-2:].astype(int).astype(str))
    with pytest.raises(DataError, match="20 of its items are not in this data"):
        SequencesDataModule(other, renamed).load_state_dict(cycle.state_dict())
