"""A pickle gone through one instruction at a time, with the stack after each; nothing in it is imported or called.

`pickletools` names the instructions, the machine of this package carries them out.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, NamedTuple

from mvae.checkpoint.pickled.machine import HANDLERS, Unpickler
from mvae.checkpoint.pickled.values import Global, Object
from mvae.errors import CheckpointError
from mvae.text import printable

_MAX_BYTES = 1 << 20
_PARTS = 3
_DAMAGED = (CheckpointError, IndexError, struct.error, ValueError, TypeError, KeyError, AttributeError, OverflowError)


class Step(NamedTuple):
    """One instruction.

    Attributes:
        at: its first byte, from the start of the pickle.
        name: as `pickletools` has it.
        argument: what follows it in the pickle, as short text; empty if nothing does.
        does: what it does, in a sentence of `pickletools`.
        stack: short texts of what is on the stack after it, the top last; `MARK` where a mark lies.
    """

    at: int
    name: str
    argument: str
    does: str
    stack: list[str]


def steps(data: bytes | memoryview, persistent: Callable[[Any], Any] | None = None) -> Iterator[Step]:
    """Each instruction in turn, to the end or to where the pickle is damaged; take as many as are wanted.

    Args:
        data: the pickle; of a longer one, the first megabyte is looked at.
        persistent: what to make of a persistent id; see `Unpickler`.
    """
    known = bytes(memoryview(data)[:_MAX_BYTES])
    machine = Unpickler(known, persistent)
    try:
        for opcode, argument, at in pickletools.genops(known):
            machine.position = (at or 0) + 1
            if opcode.name == "STOP":
                machine.stack.pop()
            elif opcode.name != "FRAME":  # which only says how much to read at once
                HANDLERS[ord(opcode.code)](machine)
            below = [text for level in machine.marks for text in [*map(short, level), "MARK"]]
            does = " ".join(opcode.doc.split()).partition(". ")[0].rstrip(".") + "."
            shown = "" if argument is None else short(argument)
            yield Step(at or 0, opcode.name, shown, does, [*below, *map(short, machine.stack)])
    except _DAMAGED:
        return


def references(data: bytes | memoryview, persistent: Callable[[Any], Any]) -> dict[int, int]:
    """For each storage, by `id`, the byte of the instruction that first refers to it, from the start of the pickle.

    Args:
        data: a pickle that was read before.
        persistent: gives the storage of a persistent id, the same one each time.

    Raises:
        CheckpointError: see `Unpickler.load`.
    """
    found: dict[int, int] = {}

    def note(pid: Any) -> Any:
        storage = persistent(pid)
        found.setdefault(id(storage), machine.position - 1)
        return storage

    machine = Unpickler(data, note)
    machine.load()
    return found


def short(value: Any, depth: int = 2) -> str:
    """A value in a few letters, whatever is in it: a value may hold itself, or a text of a gigabyte."""
    if isinstance(value, (dict, list, tuple, set, frozenset)):
        ends = {list: "[]", tuple: "()"}.get(type(value), "{}")
        some = islice(value.items() if isinstance(value, dict) else value, _PARTS if depth else 0)
        if isinstance(value, dict):
            parts = [f"{short(key, depth - 1)}: {short(part, depth - 1)}" for key, part in some]
        else:
            parts = [short(part, depth - 1) for part in some]
        comma = "," if isinstance(value, tuple) and len(value) == len(parts) == 1 else ""
        return ends[0] + ", ".join(parts + ["…"] * (len(value) > len(parts))) + comma + ends[1]
    if isinstance(value, Object):
        return f"object of {short(value.cls, depth - 1) if depth else '…'}"
    if isinstance(value, (str, bytes, bytearray)):
        return printable(repr(value[:50]) + "…" * (len(value) > 50))
    if isinstance(value, int) and value.bit_length() > 200:
        return f"integer of {value.bit_length():,} bits"
    return printable(str(value) if isinstance(value, Global) else repr(value), 60)
