"""A pickle gone through step by step: the stack is what the machine has, and no pickle makes it long."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from itertools import islice

import pytest

from mvae.checkpoint.pickled.steps import references, short, steps
from mvae.checkpoint.pickled.values import Global, Object


@pytest.mark.parametrize("protocol", range(6))
def test_the_last_value_is_the_pickles(protocol: int) -> None:
    value = {"epoch": 1, "losses": [0.5, None], "name": (1,), "kept": OrderedDict(a=True)}
    found = list(steps(pickle.dumps(value, protocol)))
    assert (found[-1].name, found[-1].stack) == ("STOP", [])
    assert found[-2].stack == ["{'epoch': 1, 'losses': [0.5, None], 'name': (1,), …}"]
    assert [step.at for step in found] == sorted({step.at for step in found})


def test_a_mark_is_shown_where_it_lies() -> None:
    found = {step.at: step for step in steps(b"}(VhelloK\x01u.".replace(b"hello", b"hello\n"))}
    assert found[1].stack == ["{}", "MARK"]
    assert found[9].stack == ["{}", "MARK", "'hello'", "1"]
    assert found[11].stack == ["{'hello': 1}"]
    assert found[0].does == "Push an empty dict."


def test_nothing_is_called() -> None:
    found = list(steps(b"cbuiltins\nprint\n(Vhello\ntR."))
    assert found[-2].stack == ["object of builtins.print"]


@pytest.mark.parametrize("damaged", [b"}]\xff", b"}]X\xff\xff", b"}]t", b"}](K\x01u"])
def test_it_ends_in_front_of_a_damaged_instruction(damaged: bytes) -> None:
    assert [step.name for step in steps(damaged)][:2] == ["EMPTY_DICT", "EMPTY_LIST"]


def test_the_first_reference_to_each_storage_is_told() -> None:
    known = {"a": object(), "b": object()}
    program = b"(Va\nQ" + b"Vb\nQ" + b"Va\nQ" + b"t."
    assert references(program, known.__getitem__) == {id(known["a"]): 4, id(known["b"]): 8}


def test_short_is_short_whatever_the_value() -> None:
    twice: tuple = ()
    for _ in range(60):
        twice = (twice, twice)
    round_and_round: list = []
    round_and_round.append(round_and_round)
    wild = [twice, round_and_round, Object(twice), Object(Object(Global("a", "b" * 999))), "x" * 10**6, 10**5000]
    wild += [b"\x00" * 1000, {1: twice}, "\x1b[2J", set(range(99))]
    for value in wild:
        assert len(short(value)) < 400, type(value)
        assert short(value).isprintable()


def test_a_program_of_a_million_instructions_is_read_as_far_as_is_wanted() -> None:
    assert len(list(islice(steps(b"]" * 10**6), 50))) == 50
