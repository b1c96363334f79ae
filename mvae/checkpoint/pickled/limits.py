"""What reading a pickle may cost: instructions, memory, and the time that hashing takes."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from time import thread_time
from typing import Any

from mvae.errors import CheckpointError


@dataclass(frozen=True)
class Limits:
    """What one pickle may cost. The largest real checkpoints stay far below.

    Attributes:
        opcodes: instructions; a tensor takes about 35.
        memory: bytes of strings and containers, by a rough count.
        blob: a string or bytes longer than this stays in the file as a `Blob`.
        depth: containers inside containers. Python itself pickles at most 1,000.
        unfolded: values, when one that is used twice counts twice; stops a dict that doubles itself.
    """

    opcodes: int = 12_000_000
    memory: int = 400 << 20
    blob: int = 1 << 20
    depth: int = 500
    unfolded: int = 50_000_000

    def less(self, opcodes: int, memory: int) -> Limits:
        """What is left for the next pickle of the same file."""
        return replace(self, opcodes=max(0, self.opcodes - opcodes), memory=max(0, self.memory - memory))


DEFAULT_LIMITS = Limits()


@contextmanager
def collector_held_off() -> Iterator[None]:
    """Hold off Python's search for cycles, which would go through a million live values again and again."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


# --- keys of a dict, members of a set

_FEW = 256
"""A dict of so few integer keys is quick whatever they are; more of them go in by so many at a time."""
_SECONDS, _SECONDS_A_KEY = 1.0, 2e-6
"""What filling may take: a second, and for each key ten times what keys by chance need."""
_MAX_PARTS = 1000
_HASH_MODULUS = 2**61 - 1
_TRUSTED = {str, bytes, bool, type(None)}
_UNHASHABLE = (list, dict, set, bytearray)


class KeyGuard:
    """Puts keys into dicts and sets, and refuses those that were chosen to keep Python busy, for one file.

    Python hashes strings with a secret, so nobody can choose where they go. Numbers and tuples have no secret: a file
    can hold a million that meet in the same places, or that are each found only after all before it, and a dict of them
    takes hours to fill. And the hash of a tuple walks the whole of it. So such keys go in by a few at a time, under a
    limit on the time that this takes.
    """

    def __init__(self) -> None:
        self._left = _SECONDS

    def fill(self, target: dict[Any, Any] | set[Any], keys: list[Any], values: list[Any] | None = None) -> None:
        """`target[key] = value` for each; without values, `target.add(key)`.

        Raises:
            CheckpointError: a key that cannot be hashed, or keys that were made to collide.
        """
        kinds = {type(key) for key in keys}
        if kinds <= _TRUSTED or _few(len(target) + len(keys), kinds, keys):
            _put(target, keys, values)
            return
        for start in range(0, len(keys), _FEW):
            some = slice(start, start + _FEW)
            began = thread_time()
            for key in keys[some]:
                _check_parts(key)
            _put(target, keys[some], None if values is None else values[some])
            self._left -= thread_time() - began - _SECONDS_A_KEY * len(keys[some])
            if self._left < 0:
                raise CheckpointError("the pickle holds keys made to collide, which would keep a dict busy for hours.")


def _put(target: Any, keys: list[Any], values: list[Any] | None) -> None:
    target.update(keys if values is None else zip(keys, values, strict=True))


def _few(count: int, kinds: set[type], keys: list[Any]) -> bool:
    """True for a few plain integers: they hash to themselves, so no two are alike."""
    small = count <= _FEW and kinds <= _TRUSTED | {int}
    return small and all(-_HASH_MODULUS < key < _HASH_MODULUS for key in keys if type(key) is int)


def _check_parts(key: Any) -> None:
    """A compound key must be small, counted with repetition, because hashing it visits all of it."""
    pending: list[Any] = [key]
    for _ in range(_MAX_PARTS):
        if not pending:
            return
        value = pending.pop()
        if type(value) in (tuple, frozenset):
            pending.extend(value)
        elif isinstance(value, _UNHASHABLE):
            raise CheckpointError(f"the pickle uses a {type(value).__name__} as a key, which Python does not allow.")
    raise CheckpointError(f"the pickle uses a tuple of more than {_MAX_PARTS} parts as a key.")
