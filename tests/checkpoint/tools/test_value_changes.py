"""What changed among the values that are no tensors."""

from __future__ import annotations

import io
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile_files import calls, checkpoint, name, pickle_of, text

from mvae.checkpoint import CheckpointError, diff, inspect
from mvae.checkpoint.tools.value_changes import value_changes


def test_values_of_every_kind() -> None:
    many = dict.fromkeys(range(30), 0)
    a = {"list": [600, 200], "long": list(range(50)), "many": many, "same": {1, 2}, "type": 1, "x": [{"y": 1}]}
    b = {"list": [512, 200], "long": list(range(49)), "many": dict.fromkeys(many, 1), "same": {2, 1}, "type": 1.0}
    b["x"] = [{"y": 2}]
    shown = [str(change) for change in value_changes(a, b)]
    assert shown == [
        "~ list  [600, 200] → [512, 200]",
        "~ long  list: 50 → 49 entries, 1 of them differ",
        "~ many  dict: 30 → 30 entries, 30 of them differ",
        "~ type  1 → 1.0",
        "~ x.0.y  1 → 2",
    ]


def test_foreign_objects_are_compared_by_what_is_in_them(zoo: dict[str, Path]) -> None:
    for path in zoo.values():
        assert diff(path, path).same
    a, b = inspect(zoo["hyperparameters"]), inspect(zoo["hyperparameters"])
    b.tree["hyper_parameters"]["extra"]["dataclass"].state["width"] = 5
    b.tree["hyper_parameters"]["extra"]["float32"].value = 0.75
    changes = {change.name.removeprefix("hyper_parameters.extra."): change for change in diff(a, b).values}
    assert list(changes) == ["float32", "dataclass.width"]


def test_files_that_hold_themselves_or_hostile_values() -> None:
    loop = checkpoint(pickle_of(b"]q\x00h\x00a"))
    assert diff(loop, loop).same
    for _, pickle in calls():
        with suppress(CheckpointError):
            assert diff(checkpoint(pickle), checkpoint(pickle)).same
    doubling = b"".join(b"}(K\x00h%cK\x01h%cuq%c" % (i, i, i + 1) for i in range(40))
    twice = [checkpoint(pickle_of(b"}", text("x"), end, b"sq\x00", doubling)) for end in (b"K\x01", b"K\x02")]
    with pytest.raises(CheckpointError, match="unfold"):
        diff(*twice)
    assert diff(checkpoint(pickle_of(name("a", "b"))), checkpoint(pickle_of(name("a", "c")))).values


def saved(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


@dataclass(frozen=True)
class Key:
    name: str


def test_keys_that_are_objects_are_compared_by_what_they_say() -> None:
    def table(value: float, count: int = 2) -> bytes:
        keys = [Key("x"), Key("y"), *(Key(str(number)) for number in range(count - 2))]
        members = {Key("in the set"), Key(str(value))}
        return saved({"table": {key: value if key.name == "x" else 0.25 for key in keys}, "set": members})

    found = diff(table(0.5), table(0.75))
    in_set, in_table = found.values
    assert in_set.path == ("set",)
    assert (in_table.name, in_table.before, in_table.after) == (f"table.{__name__}.Key name x", 0.5, 0.75)
    assert diff(table(0.5), table(0.5)).same
    assert diff(table(0.5, 50), table(0.5, 50)).same
    assert len(diff(table(0.5, 50), table(0.75, 50)).values) == 2
    one, other = ({Key("x"): 1, Key("x "): value} for value in (1, 2))
    assert not diff(saved(one), saved(other)).same
