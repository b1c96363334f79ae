"""What foreign objects become: the value that the real library would give, and what is listed of it is right."""

from __future__ import annotations

import argparse
import datetime
import decimal
import enum
import fractions
import functools
import io
import os
import pathlib
import re
import types
import uuid
import zoneinfo
from collections import ChainMap, Counter, OrderedDict, defaultdict, deque, namedtuple
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pydantic
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.fabric.utilities.data import AttributeDict
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from mvae.checkpoint import CheckpointError, read
from mvae.checkpoint.pickled.plain import MAX_REPLACED, Plain, Replaced, hashable, shown
from mvae.checkpoint.pickled.values import Global, Object
from mvae.checkpoint.pickled.writer import Pickler

CASES = 2_000 if os.environ.get("HYPOTHESIS_PROFILE") == "nightly" else 40


class Colour(enum.Enum):
    RED = "red"
    BLUE = 2


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


class Level(enum.IntEnum):
    HIGH = 3


class Shade(enum.StrEnum):
    DARK = "dark"


@dataclass
class Inner:
    rate: float = 0.5


@dataclass
class Settings:
    width: int = 4
    inner: Inner = field(default_factory=Inner)


@dataclass(frozen=True, slots=True)
class Slotted:
    a: int = 1
    b: str = "x"


@dataclass(frozen=True)
class Key:
    name: str


class Validated(pydantic.BaseModel):
    width: int = 4
    names: list[str]
    colour: Colour


class Box(dict[str, Any]):
    """A dict whose entries are its attributes too, as in easydict."""

    def __init__(self, **entries: Any) -> None:
        super().__init__(entries)
        self.__dict__.update(entries)


class Noted(list[int]):
    note = "x"


Point = namedtuple("Point", "x y")
Alone = namedtuple("Alone", "x")


def became(value: Any, **options: Any) -> tuple[Any, list[Replaced]]:
    """What torch reads in place of a value, and what is listed."""
    from mvae.checkpoint.formats.stream import Stream
    from mvae.checkpoint.formats.zip_writer import write_checkpoint

    buffer, again = io.BytesIO(), io.BytesIO()
    torch.save({"x": value}, buffer, **options)
    pickler = Pickler()
    with Stream() as stream:
        write_checkpoint(again, read(buffer.getvalue()).tree, lambda stored: stream.storage(stored.storage), pickler)
    return torch.load(io.BytesIO(again.getvalue()), weights_only=True)["x"], pickler.replaced


UTC = datetime.timezone.utc  # noqa: UP017
WEST = datetime.timezone(datetime.timedelta(hours=-5, minutes=-30))
BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")
ID = uuid.UUID(int=7)

WHOLE: dict[str, tuple[Any, Any]] = {
    "enum of text": (Colour.RED, "red"),
    "enum": (Colour.BLUE, 2),
    "flags": (Rights.READ | Rights.WRITE, 3),
    "int enum": (Level.HIGH, 3),
    "text enum": (Shade.DARK, "dark"),
    "path": (pathlib.PurePosixPath("/a/b.c"), "/a/b.c"),
    "relative path": (pathlib.Path("a/b"), "a/b"),
    "empty path": (pathlib.PurePosixPath(), ""),
    "windows path": (pathlib.PureWindowsPath("C:\\a\\b"), "C:\\a\\b"),
    "float32": (np.float32(0.5), 0.5),
    "int64": (np.int64(-3), -3),
    "numpy bool": (np.bool_(True), True),
    "numpy text": (np.str_("åb"), "åb"),
    "numpy bytes": (np.bytes_(b"ab"), b"ab"),
    "text array": (np.array(["a", "bc"]), ["a", "bc"]),
    "object array": (np.array([None, {"a": np.float32(1)}], dtype=object), [None, {"a": 1.0}]),
    "matrix of objects": (np.array([[None, "a"], [Colour.RED, 1]], dtype=object), [[None, "a"], ["red", 1]]),
    "columns of objects": (np.array([[None, 1], [2, 3]], dtype=object, order="F"), [[None, 1], [2, 3]]),
    "one object": (np.array({"a": 1}, dtype=object), {"a": 1}),
    "pydantic model": (Validated(names=["a"], colour=Colour.RED), {"width": 4, "names": ["a"], "colour": "red"}),
    "numpy dtype": (np.dtype("float32"), "<f4"),
    "dataclass": (Settings(), {"width": 4, "inner": {"rate": 0.5}}),
    "slots": (Slotted(), [1, "x"]),
    "namespace": (argparse.Namespace(a=1, b=[Colour.RED]), {"a": 1, "b": ["red"]}),
    "simple namespace": (types.SimpleNamespace(a=1), {"a": 1}),
    "attribute dict": (AttributeDict(a=1, b=AttributeDict(c=2)), {"a": 1, "b": {"c": 2}}),
    "easy dict": (Box(a=1), {"a": 1}),
    "set": ({1, Colour.BLUE}, {1, 2}),
    "frozenset": (frozenset({1, "b"}), {1, "b"}),
    "nested frozensets": (frozenset({frozenset({1})}), {(1,)}),
    "named tuple": (Point(1, Colour.RED), (1, "red")),
    "named tuple of one": (Alone(1), (1,)),
    "deque": (deque([1, 2], maxlen=5), [1, 2]),
    "default dict": (defaultdict(list, {"a": [1]}), {"a": [1]}),
    "chain map": (ChainMap({"a": 1}), {"maps": [{"a": 1}]}),
    "range": (range(2, 8, 3), [2, 5]),
    "decimal": (decimal.Decimal("1.50"), "1.50"),
    "fraction": (fractions.Fraction(1, 3), "1/3"),
    "uuid": (ID, str(ID)),
    "pattern": (re.compile("a+"), "a+"),
    "datetime": (datetime.datetime(2026, 1, 2, 3, 4, 5, 6), "2026-01-02T03:04:05.000006"),
    "with utc": (datetime.datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02T00:00:00+00:00"),
    "with a zone": (datetime.datetime(2026, 1, 2, tzinfo=WEST), "2026-01-02T00:00:00-05:30"),
    "with a named zone": (datetime.datetime(2026, 1, 2, tzinfo=BERLIN), "2026-01-02T00:00:00[Europe/Berlin]"),
    "date": (datetime.date(2026, 1, 2), "2026-01-02"),
    "time": (datetime.time(1, 2), "01:02:00"),
    "time delta": (datetime.timedelta(days=-1, seconds=5), -86395.0),
    "keys": ({Colour.RED: 1, pathlib.PurePosixPath("a"): 2, np.int64(5): 3}, {"red": 1, "a": 2, 5: 3}),
    "tuple keys": ({(Colour.RED, 1): 2}, {("red", 1): 2}),
}  # fmt: skip


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("name", WHOLE)
def test_its_content_is_kept_and_it_is_listed(name: str, protocol: int) -> None:
    value, expected = WHOLE[name]
    found, replaced = became(value, pickle_protocol=protocol)
    assert found == expected
    assert type(found) is type(expected)
    assert replaced
    assert not any(entry.lost for entry in replaced)
    if replaced[0].path == ("x",):
        assert str(replaced[0].by) == str(found) or shown(replaced[0].by) == shown(found)


def test_numbers_in_arrays_become_tensors_of_the_same_type() -> None:
    for array in (np.arange(3), np.ones((2, 3), np.float32), np.asfortranarray(np.arange(6).reshape(2, 3))):
        found, replaced = became(array)
        assert torch.equal(found, torch.from_numpy(np.ascontiguousarray(array)))
        assert [entry.was for entry in replaced] == ["numpy.ndarray"]


def test_what_torch_takes_is_not_touched() -> None:
    value = {
        "a": Counter("aab"),
        "b": OrderedDict(x=1),
        "c": {1, 2},
        "d": torch.float16,
        "e": torch.device("cuda:1"),
        "f": torch.strided,
    }
    found, replaced = became(value)
    assert found == value
    assert [type(part) for part in found.values()] == [type(part) for part in value.values()]
    assert replaced == []


LOST: dict[str, tuple[Any, Any, str]] = {
    "class": (nn.ReLU, "torch.nn.modules.activation.ReLU", "only the name"),
    "function": (torch.relu, "torch._C._VariableFunctionsClass.relu", "only the name"),
    "method": (nn.Identity().forward, "torch.nn.modules.linear.Identity.forward", "only the name"),
    "partial": (
        functools.partial(torch.optim.SGD, 1, lr=0.1, path=pathlib.PurePosixPath("a")),
        {"_target_": "torch.optim.sgd.SGD", "_partial_": True, "_args_": [1], "lr": 0.1, "path": "a"},
        "cannot be called",
    ),
    "nothing inside": (object(), "builtins.object", "nothing of it"),
    "slice": (slice(1, 2), [1, 2, None], "not known"),
    "dates in an array": (np.array(["2026-01-01"], "M8[D]"), None, "no plain form"),
    "generator": (np.random.default_rng(0), None, "not known"),
    "list with attributes": (Noted([1]), [1], "its attributes note"),
}


@pytest.mark.parametrize("name", LOST)
def test_what_has_no_plain_form_is_named(name: str) -> None:
    value, expected, why = LOST[name]
    if name == "list with attributes":
        value.note = "y"
    found, replaced = became({"deep": [value]})
    if expected is not None:
        assert found["deep"][0] == expected
    assert replaced[0].path == ("x", "deep", 0)
    assert why in replaced[0].lost
    assert why in str(replaced[0])


def test_a_module_keeps_its_weights_but_not_its_code() -> None:
    module = nn.Linear(2, 3)
    found, replaced = became(module)
    assert torch.equal(found["_parameters"]["weight"], module.weight)
    assert found["in_features"] == 2
    assert [(entry.path, entry.was) for entry in replaced if entry.lost] == [(("x",), "torch.nn.modules.linear.Linear")]


def test_a_loss_inside_of_something_else_is_named_too_by_its_place_in_the_new_tree() -> None:
    config = OmegaConf.create({"model": {"act": nn.ReLU}}, flags={"allow_objects": True})
    found, replaced = became(argparse.Namespace(cfg=config))
    assert found == {"cfg": {"model": {"act": "torch.nn.modules.activation.ReLU"}}}
    assert [(entry.path, bool(entry.lost)) for entry in replaced] == [
        (("x",), False),
        (("x", "cfg", "model", "act"), True),
    ]


def test_a_thousand_replacements_do_not_hide_a_loss() -> None:
    found, replaced = became([Colour.RED] * 2 * MAX_REPLACED + [nn.ReLU])
    assert len(found) == 2 * MAX_REPLACED + 1
    assert [entry.path for entry in replaced if entry.lost] == [("x", 2 * MAX_REPLACED)]
    assert len(replaced) == MAX_REPLACED + 1


def test_keys_that_become_the_same_stay_apart() -> None:
    found, replaced = became({Colour.BLUE: "a", Level.HIGH: "b", 2: "c", Key("p"): 1, Key("q"): 2})
    assert len(found) == 5
    assert found[2] == "c", "the key that was plain keeps its name"
    assert sorted(map(str, found.values())) == ["1", "2", "a", "b", "c"]
    assert {str(key) for key in found} >= {"2", "3", "2 (2)"}
    assert "'p'" in " ".join(map(str, found))
    assert [bool(entry.lost) for entry in replaced] == [False, False, True, True], "of a key that was an object, text"
    assert became({nn.ReLU: 1})[1][0].lost
    assert became({(1, nn.ReLU): 1})[1][0].lost


def test_hashable_tells_objects_apart_by_what_they_say() -> None:
    first, second, same = (Object(Global("a", "Key")) for _ in range(3))
    first.state, second.state, same.state = {"name": "x"}, {"name": "y"}, {"name": "x"}
    assert hashable(first) == hashable(same) != hashable(second)


# --- OmegaConf


def config() -> DictConfig:
    return OmegaConf.create({
        "seed": 1, "none": None, "missing": "???", "list": [600, "${seed}", {"k": "${..[0]}"}],
        "text": "run-${seed}-${sub.y}", "same": "${seed}", "whole": "${sub}", "third": "${list[2].k}",
        "sub": {"y": 5, "up": "${..seed}", "beside": "${.y}", "of": "${whole.y}", "key": "y", "any": "${sub.${.key}}"},
        "chain": "${same}", 7: "number", "flag": True, "rate": 1e-3, "via": "${list}", "half": "${rate}s",
        "nothing": "${none}", "words": "x ${none} ${flag} ${rate}",
    })  # fmt: skip


def resolved(value: Any) -> Any:
    return OmegaConf.to_container(value, resolve=True)


def test_a_configuration_becomes_what_omegaconf_makes_of_it() -> None:
    found, replaced = became(config())
    assert found == resolved(config())
    assert [(entry.path, entry.was) for entry in replaced] == [(("x",), "omegaconf.dictconfig.DictConfig")]


def test_a_part_of_a_configuration_finds_what_is_above_it() -> None:
    for key in ("sub", "list"):
        found, _ = became(config()[key])
        assert found == resolved(config()[key])


@dataclass
class Structured:
    lr: float = 0.1
    colour: Colour = Colour.RED
    text: str = "${.lr}"
    count: int = "${seed}"  # type: ignore[assignment]
    names: list[str] = field(default_factory=lambda: ["a", "${..text}"])
    where: pathlib.Path = pathlib.Path("/data")


def test_structured_configurations() -> None:
    made = OmegaConf.create({"seed": "12", "s": Structured})
    found, _ = became(made)
    expected = resolved(made)
    assert found["s"].pop("colour") == expected["s"].pop("colour").value
    assert found["s"].pop("where") == str(expected["s"].pop("where"))
    assert found == expected
    assert type(found["s"]["count"]) is int


@pytest.mark.parametrize(
    "text",
    [
        "${oc.env:HOME}", "${nowhere}", "${sub.nothing}", "x-${oc.env:HOME}-${seed}", "${.a}", "${b}", "${m}",
        "\\${seed}", "${list[9]}", "${}", "${.......a}", "${seed", "${sub}-x", "${" * 300,
    ],
)  # fmt: skip
def test_what_an_interpolation_asks_for_that_is_not_there_stays_and_is_said(text: str) -> None:
    made = OmegaConf.create({"seed": 1, "sub": {"y": 1}, "list": [1], "b": "${a}", "m": "???"})
    made._set_item_impl("a", "placeholder")
    made._get_node("a")._val = text
    found, replaced = became(made)
    assert found["a"] == text
    notes = {entry.path: entry.note for entry in replaced}
    assert "not in the file" in notes["x", "a"]
    assert not any(entry.lost for entry in replaced), "the text can be resolved again"


def test_interpolations_that_unfold_without_end_are_left() -> None:
    made = OmegaConf.create({f"k{i}": f"${{k{i + 1}}}${{k{i + 1}}}" for i in range(40)} | {"k40": "x"})
    found, _ = became(made)
    assert found["k40"] == "x"
    assert found["k38"] == "xxxx"
    assert found["k0"] == "${k1}${k1}"


def test_objects_whose_values_are_keys_made_to_collide_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mvae.checkpoint.pickled.limits._SECONDS", 0.01)
    keys = [Object(Global("a", "Number"), (number * (2**61 - 1),)) for number in range(1 << 15)]
    with pytest.raises(CheckpointError, match="collide"):
        Plain().go_through(dict.fromkeys(keys, 0))


_NAMES = ["a", "b", "c.a", "c.b", "l[0]", "l[1]", ".a", ".b", "..a", "..c.b", ".[0]", "...a", "c", "l", "nowhere"]
_refer = st.sampled_from(_NAMES).map(lambda name: f"${{{name}}}")
_values = st.one_of(
    st.integers(0, 9), st.sampled_from([None, True, 1.5, "x", "???", "a"]), _refer,
    st.tuples(_refer, _refer).map("-".join), _refer.map(lambda inner: f"${{{inner}}}"),
    _refer.map(lambda inner: f"${{c.{inner}}}"),
)  # fmt: skip


@given(st.fixed_dictionaries({
    "a": _values, "b": _values, "c": st.fixed_dictionaries({"a": _values, "b": _values}),
    "l": st.lists(_values, min_size=2, max_size=2),
}))  # fmt: skip
@settings(max_examples=CASES, deadline=None)
def test_every_interpolation_is_resolved_as_omegaconf_does_or_left(entries: dict[str, Any]) -> None:
    made = OmegaConf.create(entries)
    found, _ = became(made)
    for holder, key in ((made, "a"), (made, "b"), (made.c, "a"), (made.c, "b"), (made.l, 0), (made.l, 1)):
        ours = found[key] if holder is made else found["c" if holder is made.c else "l"][key]
        raw = holder._get_node(key)._value()
        try:
            theirs = holder[key]
            theirs = OmegaConf.to_container(theirs, resolve=True) if OmegaConf.is_config(theirs) else theirs
        except OmegaConfBaseException:  # a circle, a name that is not there, a value that is missing
            theirs = raw
        if isinstance(ours, (dict, list)) and theirs is raw:
            continue  # a configuration in which something is left
        if ours == raw and isinstance(theirs, str) and ("{" in theirs or "[" in theirs):
            continue  # a whole configuration inside a text, which is left
        assert (type(ours), ours) == (type(theirs), theirs), (key, raw)


@given(st.recursive(
    st.sampled_from([*(value for value, _ in WHOLE.values()), *(value for value, _, _ in LOST.values()), 1, "a"]),
    lambda inside: st.one_of(st.lists(inside, max_size=4), st.dictionaries(st.text(max_size=3), inside, max_size=4)),
    max_leaves=12,
))  # fmt: skip
@settings(max_examples=CASES, deadline=None)
def test_torch_takes_whatever_is_made_of_it_and_there_is_nothing_left_to_make_plain(tree: Any) -> None:
    found, replaced = became(tree)
    again, none = became(found)
    assert none == []
    assert repr(again) == repr(found)
    assert all(str(entry).isprintable() for entry in replaced)
