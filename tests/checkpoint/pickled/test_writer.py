"""The pickle that is written: torch reads it, however deep, long or entangled the tree is."""

from __future__ import annotations

import io
import sys
import threading
import tracemalloc
from typing import Any

import pytest
import torch
from hostile_files import checkpoint
from torch import nn

from mvae.checkpoint import CheckpointError, read
from mvae.checkpoint.pickled.machine import Limits
from mvae.checkpoint.pickled.values import Global, Object
from mvae.checkpoint.pickled.writer import Pickler


def loaded(pickle: bytes) -> Any:
    """What torch reads of a pickle without tensors."""
    return torch.load(io.BytesIO(checkpoint(pickle)), weights_only=True)


def nested(depth: int, wrap: Any) -> Any:
    value: Any = 7
    for _ in range(depth):
        value = wrap(value)
    return value


def an_object(value: Any) -> Object:
    found = Object(Global("a", "B"))
    found.state = {"x": value}
    return found


WRAPS: list[Any] = [lambda x: [x], lambda x: (x, x), lambda x: {"k": x}, lambda x: {"k": [(x,)]}, an_object]


@pytest.mark.parametrize("wrap", WRAPS)
def test_as_deep_as_anything_that_is_read_is_written(wrap: Any) -> None:
    before = sys.getrecursionlimit()
    tree = nested(Limits().depth, wrap)
    found = loaded(Pickler().dump(tree))
    assert sys.getrecursionlimit() == before
    levels = 0
    while found != 7:
        found = found["x"] if "x" in found else found["k"] if isinstance(found, dict) else found[0]
        levels += 1
    assert levels >= Limits().depth


def test_deep_values_in_a_thread_with_a_small_stack() -> None:
    written: list[bytes] = []
    before = threading.stack_size(256 << 10)
    try:
        thread = threading.Thread(target=lambda: written.append(Pickler().dump(nested(500, an_object))))
        thread.start()
        thread.join()
    finally:
        threading.stack_size(before)
    assert loaded(written[0])["x"]["x"]


def test_what_is_deeper_than_any_file_is_refused() -> None:
    with pytest.raises(CheckpointError, match="too deep"):
        Pickler().dump(nested(20_000, lambda x: [x]))


def test_millions_of_numbers_cost_what_they_take_in_the_file() -> None:
    tree = {"ids": list(range(200_000)), "values": [i / 3 for i in range(100_000)]}
    tracemalloc.start()
    size = len(Pickler().dump(tree))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.5 * size + 500_000


def test_what_the_standard_library_writes_in_a_way_that_torch_refuses() -> None:
    tree = {
        "bytes": b"",
        "array": bytearray(),
        "full": (b"\xff", bytearray(b"a")),
        "ints": [255, 256, 65536, -1, 2**99],
    }
    assert loaded(Pickler().dump(tree)) == tree


def test_names_and_values_are_written_once_and_referred_to() -> None:
    shared = [1, 2]
    pickle = Pickler().dump({"a": shared, "b": shared, "c": {1}, "d": {2}})
    assert pickle.count(b"c__builtin__\nset\n") == 1
    back = loaded(pickle)
    assert back["a"] is back["b"]


def test_attributes_of_tensors_are_kept() -> None:
    tensor, parameter = torch.ones(2), nn.Parameter(torch.ones(2))
    tensor.note, parameter.sparse = {"a": [1]}, True  # type: ignore[attr-defined]
    buffer, again = io.BytesIO(), io.BytesIO()
    torch.save({"t": tensor, "p": parameter, "q": parameter}, buffer)
    from mvae.checkpoint import salvage

    assert salvage(buffer.getvalue(), again).replaced == []
    back = torch.load(io.BytesIO(again.getvalue()), weights_only=True)
    assert back["t"].note == {"a": [1]}
    assert back["p"].sparse
    assert back["p"] is back["q"]
    assert isinstance(back["p"], nn.Parameter)


def test_every_tensor_has_hooks_of_its_own() -> None:
    buffer, again = io.BytesIO(), io.BytesIO()
    torch.save([torch.ones(1, requires_grad=True), torch.ones(1, requires_grad=True)], buffer)
    from mvae.checkpoint import salvage

    salvage(buffer.getvalue(), again)
    first, second = torch.load(io.BytesIO(again.getvalue()), weights_only=True)
    called: list[int] = []
    first.register_hook(lambda _: called.append(1))
    second.sum().backward()
    assert called == []


def test_a_tree_that_is_read_and_written_is_the_same_pickle_again() -> None:
    tree = {"a": [1, 2.5, None, True, "x"], "b": (1,), "c": {"d": {3}}}
    once = Pickler().dump(tree)
    assert Pickler().dump(read(checkpoint(once)).tree) == once
