"""The item vocabulary in a checkpoint, as any data module has it. That of ratings: test_datamodule.py."""

from __future__ import annotations

import pytest

from mvae import Interactions
from mvae.data import DataError
from mvae.data.vocabulary import VocabularyDataModule, find_vocabulary


@pytest.mark.parametrize("name", ["VocabularyDataModule", "SomebodysData"])
def test_it_is_found_under_the_name_of_any_class_by_what_is_in_it(name: str, interactions: Interactions) -> None:
    state = VocabularyDataModule(interactions).state_dict()
    assert find_vocabulary({"epoch": 3, "callbacks": {}, name: state}) == (name, state)
    assert state["item_ids"][:2] == ["item-00", "item-01"]


@pytest.mark.parametrize("other", [{"epoch": 3, "item_ids": ["a"]}, {"Data": ["item_ids"]}, [{"item_ids": []}], None])
def test_where_there_is_none_none_is_found(other: object) -> None:
    assert find_vocabulary(other) is None


def test_a_refusal_counts_what_differs_and_says_what_to_do(interactions: Interactions) -> None:
    module = VocabularyDataModule(interactions)
    module.load_state_dict({"item_ids": module.item_ids})
    with pytest.raises(DataError, match=r"on 59 items and this data has 60: 0 .*, 1 here .*\.realign\)"):
        module.load_state_dict({"item_ids": module.item_ids[1:]})


def test_outside_of_a_run_there_is_no_sharing(interactions: Interactions) -> None:
    assert VocabularyDataModule(interactions).share == (0, 1)
