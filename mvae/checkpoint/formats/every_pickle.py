"""The pickles of a file beside the one that its tree comes from.

They stand in bytes that it loads, elsewhere in the zip, or in front of what cannot be read. Whoever loads the file may
run them, so all of them are judged.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mvae.checkpoint.files.source import STORED, Record, Source
from mvae.checkpoint.formats.contents import Contents
from mvae.checkpoint.formats.detect import Format
from mvae.checkpoint.pickled.limits import Limits
from mvae.checkpoint.pickled.machine import Trace, Unpickler
from mvae.checkpoint.pickled.reach import LOADERS, reach
from mvae.checkpoint.pickled.values import Blob, Global, Object
from mvae.errors import CheckpointError

MAX_PICKLES = 100
"""Pickles of one file that are looked into beside the first."""
MAX_NESTED = 4
"""Pickles inside pickles inside pickles."""
_MAX_COMPRESSED = 16 << 20
_SHOWN = 5
_USES = {"called", "made", "built", "filled", "changed", "result called"}
_USUAL = ("torch", "numpy", "collections", "copyreg", "__torch__")

Reader = Callable[[Source, Limits, Contents, int], Any]


@contextmanager
def every_pickle(source: Source, contents: Contents, limits: Limits, level: int, read: Reader) -> Iterator[None]:
    """Read a file in this context: what else it holds is looked into, and an error says what runs before it.

    Args:
        source: the file.
        contents: what is being filled in; it gets what the other pickles do.
        limits: what all of its pickles together may cost.
        level: how many pickles the file is inside of.
        read: reads a file that stands inside this one.
    """
    try:
        yield
    except CheckpointError as error:
        if contents.trace is None:
            try_pickle(source, contents, limits)
        _look(contents, limits, level, read)
        raise type(error)(f"{error}{what_runs(contents)}") from error.__cause__
    _look(contents, limits, level, read)


def _look(contents: Contents, limits: Limits, level: int, read: Reader) -> None:
    if contents.trace is not None:
        _in_bytes(contents.trace, limits, level, read)
    if contents.archive is not None:
        _in_zip(contents, limits)


def try_pickle(source: Source, contents: Contents, limits: Limits) -> bool:
    """Read what starts like nothing known as a pickle.

    Protocol 0 has no first bytes of its own, and numpy puts a pickle behind its header. True if that is what it is;
    else what it does before it breaks is in `contents.trace`.
    """
    start, head = 0, bytes(source.data[:12])
    if head.startswith(b"\x93NUMPY"):
        wide = head[6:7] != b"\x01"
        start = (12 if wide else 10) + int.from_bytes(head[8 : 12 if wide else 10], "little")
    unpickler = Unpickler(source.data, None, start, limits)
    try:
        unpickler.load()
        whole = True
    except CheckpointError:
        whole = False
    if unpickler.trace.globals and is_plausible(unpickler.trace):
        contents.trace = unpickler.trace
        return whole and start == 0
    return False


def is_plausible(trace: Trace) -> bool:
    """False if the names are what comes of reading something else as a pickle."""
    return all(re.fullmatch(r"[\w.]+", str(name)) for name in trace.globals)


def what_runs(contents: Contents) -> str:
    """Sentences on what whoever loads a broken file has run by then; empty if nothing is known of."""
    sentences = ""
    found = _named(contents.trace) if contents.trace else ""
    if found:
        sentences = f" It {found} before it breaks: do not load it."
    for name, trace in contents.beside.items():
        found = _named(trace)
        if found:
            sentences += f" In it, '{name}' is a pickle that {found}: do not load it."
    return sentences


def _named(trace: Trace) -> str:
    """The names that are called, the dangerous ones first and with their reason."""
    dangers = [f"calls {name}, which {reach(name)}" for name in trace.globals if reach(name) and name.uses & _USES]
    dangers += [f"names {name}, which {reach(name)}" for name in trace.globals if reach(name) and not name.uses & _USES]
    foreign = [name for name in trace.globals if name.builder is None and name.uses & _USES and not reach(name)]
    others = [f"calls {name}" for name in foreign if name.module.partition(".")[0] not in _USUAL]
    found = dangers + others
    return ", ".join(found[:_SHOWN]) + (f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else "")


# --- inside bytes


def _in_bytes(trace: Trace, limits: Limits, level: int, read: Reader) -> None:
    """Read the pickles that the pickle itself loads, and take in what they do."""
    known: dict[int, bool] = {}
    for name, args in [call for call in trace.calls if str(call[0]) in LOADERS]:
        raw = _bytes_of(args[0]) if args else None
        if id(raw) not in known:
            known[id(raw)] = raw is not None and _read_inside(trace, name, raw, limits, level, read, len(known))
        if not known[id(raw)]:
            name.uses.add("not followed")
    if id(None) in known:
        trace.unseen.append("a pickle whose bytes the file only works out when it is loaded.")


def _bytes_of(value: Any) -> bytes | bytearray | Blob | None:
    if isinstance(value, Object) and str(value.cls) in ("_io.BytesIO", "io.BytesIO") and value.args:
        value = value.args[0]
    return value if isinstance(value, (bytes, bytearray, Blob)) else None


def _read_inside(
    trace: Trace, name: Global, raw: bytes | bytearray | Blob, limits: Limits, level: int, read: Reader, count: int
) -> bool:
    """Read one of them; True if all of it could be looked into."""
    if count >= MAX_PICKLES or level >= MAX_NESTED:
        trace.unseen.append(f"what {name} is given: there are too many pickles inside pickles.")
        return False
    data = raw.content() if isinstance(raw, Blob) else raw
    inner = Contents(f"the bytes given to {name}", len(data), Format.PICKLE)
    try:
        read(Source(inner.path, memoryview(data)), limits.less(*trace.spent), inner, level + 1)
        whole = True
    except CheckpointError as error:
        trace.unseen.append(f"all that {name} is given: {error}")
        whole = False
    if inner.trace is not None:
        trace.add(inner.trace)
    return whole


# --- in a zip


def _in_zip(contents: Contents, limits: Limits) -> None:
    """Look into the zip's other pickles; TorchScript loads its own, nobody the rest."""
    assert contents.archive is not None
    main = contents.archive.get("data.pkl")
    storages = {id(storage.record) for storage in contents.storages.values()}
    found = [
        member
        for member in contents.archive.members.values()
        if member is not main and id(member) not in storages and member.size and _looks_like_pickle(member)
    ]
    spent = contents.trace.spent if contents.trace else (0, 0)
    for number, member in enumerate(found):
        if number >= MAX_PICKLES or (member.method != STORED and member.size > _MAX_COMPRESSED):
            trace, problem = Trace(), "it is one of too many, or packed too large."
        else:
            trace, problem = _read_beside(member, limits.less(*spent))
            spent = (spent[0] + trace.spent[0], spent[1] + trace.spent[1])
        if problem and not member.name.endswith((".pkl", ".pickle")) and not trace.globals:
            continue  # other bytes that begin alike
        if problem:
            trace.unseen.append(f"all of '{member.name}': {problem}")
        if contents.format is Format.TORCHSCRIPT and contents.trace is not None:
            contents.trace.add(trace)
        else:
            contents.beside[member.name] = trace
    end = contents.main_end
    if main is not None and 0 < end < main.size:
        trace, _ = _read_beside(main, limits.less(*spent), end)
        if trace.globals:
            contents.beside[f"{main.name}, from byte {end:,} on"] = trace


def _looks_like_pickle(member: Record) -> bool:
    if member.name.endswith((".pkl", ".pickle", ".debug_pkl")):
        return True
    raw = member.source.data[member.offset : member.offset + 2]
    return member.method == STORED and len(raw) == 2 and raw[0] == 0x80 and raw[1] <= 5


def _read_beside(member: Record, limits: Limits, start: int = 0) -> tuple[Trace, str]:
    """What a pickle does, and what is wrong with it."""
    trace = Trace()
    try:
        unpickler = Unpickler(member.view()[start:], None, 0, limits)
        trace = unpickler.trace
        unpickler.load()
    except CheckpointError as error:
        return (trace if is_plausible(trace) else Trace()), str(error)
    return trace, ""
