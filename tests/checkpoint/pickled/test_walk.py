"""Going through what was read, however deep it is and though it holds itself."""

from __future__ import annotations

from typing import Any

import pytest

from mvae.checkpoint.pickled.values import Global, Object
from mvae.checkpoint.pickled.walk import check_shape, children, count, walk
from mvae.errors import CheckpointError


def test_every_value_comes_with_its_path_parents_first() -> None:
    tree = {"a": [1, {"b": 2}], "c": (3,)}
    assert [path for path, _ in walk(tree)] == [
        (), ("a",), ("a", 0), ("a", 1), ("a", 1, "b"), ("c",), ("c", 0),
    ]  # fmt: skip
    for path, value in walk(tree):
        at: Any = tree
        for step in path:
            at = at[step]
        assert at is value


def test_plain_values_can_be_passed_over() -> None:
    assert [path for path, _ in walk({"a": [1, {"b": 2}], "c": "x"}, plain=False)] == [(), ("a",), ("a", 1)]


def test_a_shared_container_is_given_twice_and_entered_once() -> None:
    shared = [1]
    assert [path for path, _ in walk({"a": shared, "b": shared})] == [(), ("a",), ("a", 0), ("b",)]


def test_a_tree_that_holds_itself_ends() -> None:
    tree: dict[str, Any] = {}
    tree["self"] = tree
    assert [path for path, _ in walk(tree)] == [(), ("self",)]
    check_shape(tree, 10, 10)


def test_a_depth_past_pythons_own_stack_is_no_trouble() -> None:
    tree: list[Any] = []
    for _ in range(5_000):
        tree = [tree]
    assert max(len(path) for path, _ in walk(tree)) == 5_000
    check_shape(tree, 5_001, 100_000)
    with pytest.raises(CheckpointError, match="deeper than 5000 levels"):
        check_shape(tree, 5_000, 100_000)


def test_what_unfolds_too_far_is_refused_though_it_is_small() -> None:
    tree: list[Any] = [0]
    for _ in range(20):
        tree = [tree, tree]
    assert sum(1 for _ in walk(tree)) < 100
    with pytest.raises(CheckpointError, match="made to exhaust the memory"):
        check_shape(tree, 100, 1_000_000)
    check_shape(tree, 100, 10_000_000)


def test_a_key_that_is_a_container_counts_too() -> None:
    key: tuple[Any, ...] = ()
    for _ in range(10):
        key = (key,)
    with pytest.raises(CheckpointError, match="deeper than 5 levels"):
        check_shape({key: 1}, 5, 1000)


def test_what_a_placeholder_holds_is_named_after_where_it_was() -> None:
    thing = Object(Global("a", "B"))
    thing.args, thing.state, thing.items = (1,), {"x": 2}, [3]
    assert dict(children(thing)) == {0: 3, "x": 2, "<args>": (1,)}
    assert count(thing) == 3
    assert count({"a": 1}) == 1
