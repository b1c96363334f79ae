"""What the harmless calls of a pickle mean, without making any of them."""

from __future__ import annotations

import collections
import pickle
from typing import Any

from mvae.checkpoint.pickled.machine import Limits, Unpickler
from mvae.checkpoint.pickled.values import Global, ObjectDict


def load(raw: bytes, **limits: int) -> Any:
    return Unpickler(raw, limits=Limits(**limits)).load()


class WithArguments:
    def __getnewargs_ex__(self) -> tuple[tuple[int], dict[str, int]]:
        return (1,), {"two": 2}


def test_arguments_of_new_are_kept() -> None:
    found = load(pickle.dumps(WithArguments(), 4))
    assert (found.args, found.kwargs) == ((1,), {"two": 2})


def test_dict_classes_are_dicts_with_a_class() -> None:
    found = load(pickle.dumps([collections.Counter("aab"), collections.defaultdict(list, a=[1])], 2))
    assert found == [{"a": 2, "b": 1}, {"a": [1]}]
    assert [str(part.cls) for part in found] == ["collections.Counter", "collections.defaultdict"]
    assert found[1].args == (Global("builtins", "list"),)


def test_attributes_of_an_ordered_dict_are_kept() -> None:
    value: Any = collections.OrderedDict(a=1)
    value._metadata = {"version": 1}
    found = load(pickle.dumps(value, 2))
    assert isinstance(found, ObjectDict)
    assert found.state == {"_metadata": {"version": 1}}
