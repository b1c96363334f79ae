"""The machine against Python's own unpickler in C and PyTorch's restricted one, on pickles made at random.

Nothing harmful runs: the real unpickler is given a `find_class` that returns inert stand-ins and remembers what it was
asked for. Whatever it would import, up to where it stops or breaks, we must have named; and what both read must be the
same. A pickle that we refuse may do anything, if only we have named what comes first.
"""

from __future__ import annotations

import io
import os
import pickle
import struct
from typing import Any

import pytest
import torch
from hostile_files import checkpoint, name, text
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mvae.checkpoint import CheckpointError, inspect
from mvae.checkpoint.pickled.limits import Limits
from mvae.checkpoint.pickled.machine import Unpickler
from mvae.checkpoint.pickled.values import Global, Object

CASES = 20_000 if os.environ.get("HYPOTHESIS_PROFILE") == "nightly" else 300
FUZZ = settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck))


class Inert:
    """Stands for any class or function, and for what it makes."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Inert:
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> Inert:
        return Inert()

    def __setstate__(self, state: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def __hash__(self) -> int:
        return id(self)


class Real(pickle.Unpickler):
    """Python's own, in C, with nothing to import."""

    def __init__(self, raw: bytes) -> None:
        super().__init__(io.BytesIO(raw))
        self.asked: list[tuple[str, str]] = []

    def find_class(self, module: str, attribute: str) -> Any:
        self.asked.append((module, attribute))
        return Inert

    def persistent_load(self, pid: Any) -> Any:
        return Inert()


def word(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()


def frame(length: int) -> bytes:
    return b"\x95" + struct.pack("<Q", length)


PARTS = st.one_of(
    st.sampled_from([
        b"N", b"]", b"}", b")", b"(", b"t", b"l", b"d", b"a", b"e", b"s", b"u", b"0", b"1", b"2", b"R", b"b", b"o",
        b"\x81", b"\x85", b"\x86", b"\x87", b"\x8f", b"\x90", b"\x91", b"\x93", b"\x94", b"\x94", b"h\x00", b"h\x01",
        b"h\x02", b"q\x00", b"q\x05", b"r\x09\x00\x00\x00", b"j\x05\x00\x00\x00", b"p3\n", b"g3\n", b"\x88", b"\x89",
        b".", b"\x80\x02", b"\x80\x04", b"I01\n", b"I7\n", b"I0x10\n", b"I010\n", b"L9L\n", b"F1.5\n",
        b"S'a'\n", b"Vb\n",
        b"K\x01", b"M\x01\x02", b"J\xff\xff\xff\xff", b"\x8a\x01\x07", b"U\x01c", b"C\x01d", b"\x92", b"Q",
        b"(ia\nb\n", b"ca\nb\n", b"c__builtin__\neval\n", word("m") + word("n.o") + b"\x93", text("x"), word("y"),
    ]),
    st.integers(0, 30).map(frame),
)  # fmt: skip


def plain(value: Any) -> Any:
    """A value with every placeholder, and every inert stand-in, as one word."""
    if isinstance(value, (Object, Global, Inert)) or value is Inert:
        return "placeholder"
    if isinstance(value, (list, tuple)):
        return type(value)(map(plain, value))
    if isinstance(value, dict):
        return {plain(key): plain(part) for key, part in value.items()}
    return value


OURS = (  # what we refuse and Python reads: no program writes it
    "frame", "refers to a buffer", "adds to a", "appends to a", "sets an item of a", "is damaged (", "deeper than",
    "where arguments should be", "from something that is not arguments", "as a key", "is of protocol", "not a name",
)  # fmt: skip


def compare(raw: bytes) -> None:
    real = Real(raw)
    try:
        wanted, broke = real.load(), False
    except RecursionError:
        return
    except Exception:
        wanted, broke = None, True
    asked = list(dict.fromkeys(f"{module}.{attribute}" for module, attribute in real.asked))
    machine = Unpickler(raw, limits=Limits(depth=100))
    error = ""
    try:
        found = machine.load()
    except CheckpointError as problem:
        error = str(problem)
    named = list(dict.fromkeys(known.written for known in machine.trace.globals))
    if any(reason in error for reason in OURS):
        assert asked[: len(named)] == named[: len(asked)]
        return
    assert set(asked) <= set(named), error
    assert broke or not error, error
    if error:
        return
    if not broke:
        try:
            same = plain(wanted) == plain(found)
        except RecursionError:
            return
        assert same, (wanted, found)


@FUZZ
@given(parts=st.lists(PARTS, max_size=30), protocol=st.integers(0, 5))
def test_what_python_imports_is_named_and_what_it_reads_is_read(parts: list[bytes], protocol: int) -> None:
    compare(b"\x80" + bytes([protocol]) + b"".join(parts) + b".")


@FUZZ
@given(parts=st.lists(PARTS, max_size=12), length=st.integers(0, 60), tail=st.lists(PARTS, max_size=12))
def test_a_frame_of_any_length_is_read_as_python_does_or_refused(
    parts: list[bytes], length: int, tail: list[bytes]
) -> None:
    compare(b"\x80\x04" + frame(length) + b"".join(parts) + b"(" + b"".join(tail) + b"t.")


TAKEN = st.sampled_from([
    b"N", b"]", b"}", b")", b"(", b"t", b"a", b"e", b"s", b"u", b"R", b"b", b"\x81", b"\x85", b"\x86", b"\x87", b"\x8f",
    b"q\x00", b"h\x00", b"q\x07", b"h\x07", b"K\x01", b"\x88", text("x"), b"U\x01c", b"\x8a\x01\x07", b"Q", b"0", b".",
    name("collections", "OrderedDict"), name("collections", "Counter"), name("builtins", "set"), name("torch", "Size"),
    name("torch", "float32"), name("argparse", "Namespace"), name("exceptions", "KeyError"), name("__builtin__", "set"),
    name("collections", "OrderedDict") + b")R", name("argparse", "Namespace") + b")\x81", b"}" + text("a") + b"K\x01s",
])  # fmt: skip


@FUZZ
@given(parts=st.lists(TAKEN, max_size=25))
@pytest.mark.filterwarnings("ignore")
def test_what_torch_takes_we_say_it_takes_and_what_it_refuses_we_do_not(parts: list[bytes]) -> None:
    """Where torch stops for any other reason (an empty stack), we may say anything but "safe" only if it is not run."""
    raw = checkpoint(b"\x80\x02" + b"".join(parts) + b".")
    try:
        torch.load(io.BytesIO(raw), weights_only=True)
        takes, refuses = True, False
    except pickle.UnpicklingError as error:
        takes, refuses = False, "Unsupported" in str(error) or "Trying to" in str(error)
    except Exception:
        takes, refuses = False, False
    try:
        safety = inspect(raw).safety
    except CheckpointError:
        return
    if takes:
        assert safety.weights_only, safety
    if refuses:
        assert not safety.weights_only
