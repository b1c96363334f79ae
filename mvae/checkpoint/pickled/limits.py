"""What reading a pickle may cost: instructions, memory, and the time that hashing takes."""

from __future__ import annotations

import gc
from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
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
"""A dict of so few integer keys is quick whatever they are."""
_CREDIT, _PER_KEY = 2_000_000, 8
_MAX_PARTS = 1000
_NEIGHBOURS = 9
"""Places after the first that a set looks at before it leaps."""
_HASH_MODULUS = 2**61 - 1
_TRUSTED = {str, bytes, bool, type(None)}
_ATOMS = _TRUSTED | {int, float, complex}
_UNHASHABLE = (list, dict, set, bytearray)


class KeyGuard:
    """Refuses keys that were chosen to keep Python's dictionary busy, for one file.

    Python hashes strings with a secret, so nobody can choose where they go. Numbers and tuples have no secret: a file
    can hold a million that meet in the same places, and a dict of them takes hours to fill. And the hash of a tuple
    walks the whole of it. So the places where such keys would go are worked out first, and each look at a place already
    taken is paid from a credit that every key adds to; by chance, two keys in three find their place free.
    """

    def __init__(self) -> None:
        self._credit = _CREDIT
        self._tables: dict[int, _Table] = {}

    def check(self, target: dict[Any, Any] | set[Any] | None, keys: list[Any]) -> None:
        """Look at keys before they go into `target`; None stands for a set that is yet to be made.

        Raises:
            CheckpointError: one that cannot be hashed, or keys that were made to collide.
        """
        table = self._tables.get(id(target)) if target is not None else None
        kinds = {type(key) for key in keys}
        if table is None and (kinds <= _TRUSTED or _few(len(target or ()) + len(keys), kinds, keys)):
            return
        for key in keys:
            if type(key) in (tuple, frozenset):
                self._credit -= _parts(key)
            elif isinstance(key, _UNHASHABLE):
                raise CheckpointError(f"the pickle uses a {type(key).__name__} as a key, which Python does not allow.")
        if table is None:
            table = _Table(target)
            keys = [*(target or ()), *keys]
            if target is not None:
                self._tables[id(target)] = table
        self._credit = table.add(keys, self._credit + _PER_KEY * len(keys))


def _few(count: int, kinds: set[type], keys: list[Any]) -> bool:
    """True for a few plain integers: they hash to themselves, so no two are alike."""
    small = count <= _FEW and kinds <= _TRUSTED | {int}
    return small and all(-_HASH_MODULUS < key < _HASH_MODULUS for key in keys if type(key) is int)


class _Table:
    """Where the keys of one dict or set stand in the table that CPython keeps for it.

    Sources: `Objects/dictobject.c` (`insertdict`, `GROWTH_RATE`), `Objects/setobject.c` (`set_add_entry`).
    """

    def __init__(self, target: dict[Any, Any] | set[Any] | None) -> None:
        self.target = target  # kept, so that nothing else gets its id
        self.is_dict = isinstance(target, dict)
        self.keys: list[Any] = []
        self.hashes = array("q")
        self.consecutive = True
        self._resize(8)

    def add(self, keys: Iterable[Any], credit: int) -> int:
        """Put keys in; the credit that is left."""
        for key in keys:
            if self.consecutive:  # 0, 1, 2, …: no two meet, in a table of any size
                self.consecutive = type(key) is int and (not self.keys or key == self.keys[-1] + 1)
                if self.consecutive:
                    self.keys.append(key)
                    self.hashes.append(hash(key))
                    continue
                credit = self._grow(credit)
            credit = self._place(key, credit)
            used, size = len(self.keys), len(self.slots)
            if used * 3 > size * 2 if self.is_dict else used * 5 >= size * 3:
                credit = self._grow(credit)
        return credit

    def _resize(self, size: int) -> None:
        self.slots = array("i", [-1]) * size

    def _grow(self, credit: int) -> int:
        known, self.keys, self.hashes = self.keys, [], array("q")
        used = len(known)
        wanted = used * (3 if self.is_dict else 4 if used <= 50_000 else 2)
        self._resize(max(8, 1 << wanted.bit_length()))
        for key in known:
            credit = self._place(key, credit)
        return credit

    def _place(self, key: Any, credit: int) -> int:
        """Follow the places that Python would look at to the first that is free."""
        full = hash(key)
        slots, keys, mask = self.slots, self.keys, len(self.slots) - 1
        perturb = full & 0xFFFFFFFFFFFFFFFF
        at = start = perturb & mask
        while slots[at] >= 0:
            other = slots[at]
            if keys[other] is key:
                return credit
            credit -= 1
            if self.hashes[other] == full:
                credit -= 0 if type(key) in _ATOMS else _MAX_PARTS
                if keys[other] == key:
                    return credit
            if credit < 0:
                raise CheckpointError("the pickle holds keys made to collide, which would keep a dict busy for hours.")
            if not self.is_dict and at < start + _NEIGHBOURS <= mask:
                at += 1
                continue
            perturb >>= 5
            at = start = (start * 5 + perturb + 1) & mask
        slots[at] = len(keys)
        keys.append(key)
        self.hashes.append(full)
        return credit


def _parts(key: tuple[Any, ...] | frozenset[Any]) -> int:
    """How many values are in a compound key, counted with repetition, because hashing it visits all of them."""
    pending: list[Any] = [key]
    for count in range(_MAX_PARTS):
        if not pending:
            return count
        value = pending.pop()
        if type(value) in (tuple, frozenset):
            pending.extend(value)
        elif isinstance(value, _UNHASHABLE):
            raise CheckpointError(f"the pickle uses a {type(value).__name__} as a key, which Python does not allow.")
    raise CheckpointError(f"the pickle uses a tuple of more than {_MAX_PARTS} parts as a key.")
