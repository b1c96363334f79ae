"""Which values may be keys of a dict or members of a set, without giving a file power over the time that
hashing takes.

Python hashes strings with a secret, so nobody can write many that collide. Large integers and tuples have no
secret: a file can hold a million that all hash alike, and a dict of them takes hours to fill. And the hash of
a tuple walks the whole of it, however deep it is and however often it holds itself.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from mvae.errors import CheckpointError

MAX_COLLISIONS = 100
MAX_PARTS = 1000
_HASH_MODULUS = 2**61 - 1
_TRUSTED = {str, bytes, bool, type(None)}
_ATOMS = _TRUSTED | {int, float, complex}
_UNHASHABLE = (list, dict, set, bytearray)


class KeyGuard:
    """Counts the keys whose hash a file can choose, for one file."""

    def __init__(self) -> None:
        self._seen: Counter[tuple[int, int]] = Counter()

    def check(self, target: object, keys: list[Any]) -> None:
        """Look at keys before they go into `target`.

        Raises:
            CheckpointError: one that cannot be hashed, or should not be.
        """
        if {type(key) for key in keys} <= _TRUSTED:
            return
        for key in keys:
            kind = type(key)
            if kind in _TRUSTED or (kind is int and -_HASH_MODULUS < key < _HASH_MODULUS):
                continue
            if kind in (tuple, frozenset):
                _check_parts(key)
            elif isinstance(key, _UNHASHABLE):
                raise CheckpointError(f"the pickle uses a {kind.__name__} as a key, which Python does not allow.")
            elif kind not in _ATOMS:
                continue  # placeholders are hashed by what they are, not by what they hold
            slot = (id(target), hash(key))
            self._seen[slot] += 1
            if self._seen[slot] > MAX_COLLISIONS:
                raise CheckpointError("the pickle holds keys made to collide, which would keep a dict busy for hours.")


def _check_parts(key: tuple[Any, ...] | frozenset[Any]) -> None:
    """A compound key must be small, counted with repetition, because hashing it visits all of it."""
    pending: list[Any] = [key]
    for _ in range(MAX_PARTS):
        if not pending:
            return
        value = pending.pop()
        if type(value) in (tuple, frozenset):
            pending.extend(value)
        elif isinstance(value, _UNHASHABLE):
            raise CheckpointError(f"the pickle uses a {type(value).__name__} as a key, which Python does not allow.")
    raise CheckpointError(f"the pickle uses a tuple of more than {MAX_PARTS} parts as a key.")
