"""The pickle machine: the same values as Python's own for every protocol, and placeholders for everything foreign."""

from __future__ import annotations

import collections
import copyreg
import pickle
import pickletools
import struct
from typing import Any

import pytest
from hostile_files import name, pickle_of, text
from hypothesis import given
from hypothesis import strategies as st

from mvae.checkpoint import CheckpointError
from mvae.checkpoint.pickled.machine import HANDLERS, Limits, Unpickler
from mvae.checkpoint.pickled.values import Blob, Object


def load(raw: bytes, **limits: int) -> Any:
    return Unpickler(raw, limits=Limits(**limits)).load()


ATOMS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text() | st.binary()
KEYS = st.text() | st.integers() | st.booleans() | st.binary() | st.tuples(st.integers(), st.text())
VALUES = st.recursive(
    ATOMS,
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(KEYS, inner)
        | st.tuples(inner, inner, inner, inner)
        | st.sets(KEYS)
        | st.frozensets(KEYS)
        | st.dictionaries(KEYS, inner).map(collections.OrderedDict)
        | st.binary().map(bytearray)
    ),
    max_leaves=20,
)


@given(value=VALUES, protocol=st.integers(0, 5))
def test_plain_values_come_back_under_every_protocol(value: Any, protocol: int) -> None:
    assert load(pickle.dumps(value, protocol)) == value
    assert load(pickletools.optimize(pickle.dumps(value, protocol))) == value


@given(value=VALUES)
def test_the_pickle_written_in_python_is_read_too(value: Any) -> None:
    assert load(pickle._dumps(value, 2)) == value  # type: ignore[attr-defined]


def test_every_opcode_has_a_handler() -> None:
    from mvae.checkpoint.pickled.machine import _unknown

    known = {ord(opcode.code) for opcode in pickletools.opcodes} - {ord("."), 0x97}
    assert {opcode for opcode in range(256) if HANDLERS[opcode] is not _unknown} - {0x97} == known


@pytest.mark.parametrize("protocol", range(6))
def test_shared_values_stay_shared(protocol: int) -> None:
    inner = [1]
    found = load(pickle.dumps([inner, inner, {"x": inner}], protocol))
    assert found[0] is found[1] is found[2]["x"]


@pytest.mark.parametrize("protocol", range(6))
def test_a_value_may_hold_itself(protocol: int) -> None:
    loop: dict[str, Any] = {}
    loop["me"] = [loop]
    found = load(pickle.dumps(loop, protocol))
    assert found["me"][0] is found


class Plain:
    def __init__(self) -> None:
        self.a, self.b = 1, [2]


class Slotted:
    __slots__ = ("a",)

    def __init__(self) -> None:
        self.a = 5


class Listy(list[int]):
    pass


class Dicty(dict[str, int]):
    pass


@pytest.mark.parametrize("protocol", range(6))
def test_an_object_shows_its_class_and_attributes(protocol: int) -> None:
    found = load(pickle.dumps(Plain(), protocol))
    assert isinstance(found, Object)
    assert str(found.cls) == f"{__name__}.Plain"
    assert found.attributes == {"a": 1, "b": [2]}
    assert found["a"] == 1


@pytest.mark.parametrize("protocol", range(2, 6))
def test_slots_are_attributes(protocol: int) -> None:
    assert load(pickle.dumps(Slotted(), protocol)).attributes == {"a": 5}


@pytest.mark.parametrize("protocol", range(6))
def test_an_object_filled_like_a_list_or_a_dict_shows_what_it_was_filled_with(protocol: int) -> None:
    assert load(pickle.dumps(Listy([1, 2]), protocol)).items == [1, 2]
    found = load(pickle.dumps(Dicty(a=1), protocol))
    assert found.entries == {"a": 1}
    assert found["a"] == 1


def test_names_of_python_2_are_brought_up_to_date() -> None:
    assert str(load(pickle_of(name("__builtin__", "xrange"))).name) == "range"
    assert str(load(pickle_of(name("copy_reg", "_reconstructor")))) == "copyreg._reconstructor"
    assert str(load(pickle_of(text("__builtin__"), text("x"), b"\x93", protocol=4))) == "__builtin__.x"


def test_a_registered_extension_is_not_looked_up() -> None:
    copyreg.add_extension("builtins", "print", 77)
    try:
        assert str(load(pickle_of(b"\x82\x4d"))) == "copyreg.extension_77"
    finally:
        copyreg.remove_extension("builtins", "print", 77)


def test_a_long_string_stays_in_the_file() -> None:
    raw = pickle.dumps({"t": "é" * 1000, "b": b"x" * 1000, "a": "short"}, 4)
    found = load(raw, blob=500)
    assert isinstance(found["t"], Blob)
    assert found["t"].content() == "é" * 1000
    assert found["b"].content() == b"x" * 1000
    assert found["a"] == "short"


def test_long_bytes_of_protocol_2_stay_in_the_file() -> None:
    value = bytes(range(256)) * 8
    found = load(pickle.dumps(value, 2), blob=500)
    assert isinstance(found, Blob)
    assert found.content() == value


def test_the_machine_stops_at_the_end_of_its_pickle() -> None:
    raw = pickle.dumps(1) + pickle.dumps(2)
    machine = Unpickler(raw)
    assert machine.load() == 1
    assert Unpickler(raw, position=machine.position).load() == 2


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "ends in the middle"),
        (b"\x80\x02", "ends in the middle"),
        (b"\x80\x02N", "ends in the middle"),
        (b"\x80\x02.", "before it has made a value"),
        (b"\x80\x02t.", "takes a value that is not there"),
        (b"\x80\x02\x86.", "takes a value that is not there"),
        (b"\x80\x02h\x00.", "takes a value that is not there"),
        (b"\x80\x09N.", "protocol 9"),
        (b"\x80\x02\xffN.", "0xff where an instruction should be"),
        (b"\x80\x02NNNs.", "sets an item of a NoneType"),
        (b"\x80\x02NNa.", "appends to a NoneType"),
        (b"\x80\x02}(Nu.", "damaged"),
        (b"\x80\x02}]Ns.", "uses a list as a key"),
        (b"\x80\x02}}\x85Ns.", "uses a dict as a key"),
        (b"\x80\x02X\x02\x00\x00\x00\xff\xff.", "not valid text"),
        (b"\x80\x02Ipear\n.", "damaged"),
        (b"\x80\x05\x97.", "buffer outside"),
        (b"\x80\x02S'unfinished\n.", "without its quotes"),
        (b"\x80\x02NN\x85R.", "calls a NoneType"),
        (b"\x80\x02NR.", "takes a value"),
        (b"\x80\x02NNR.", "where arguments should be"),
        (pickle_of(name("x" * 600, "y" * 600)), "longer than 1,000"),
        (pickle_of(b"\x8e" + struct.pack("<Q", 2**63)), "claims a string"),
    ],
)
def test_damage_is_a_plain_sentence(raw: bytes, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        load(raw)
    assert str(caught.value)[-1] == "."
    assert "\n" not in str(caught.value)
