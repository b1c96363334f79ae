"""A checkpoint's bytes and its pickle, to be gone through one by one in a notebook. See `mvae.moving`."""

from __future__ import annotations

import math
from collections import defaultdict
from html import escape
from itertools import islice
from typing import Any

from mvae.checkpoint.files.archive import Member
from mvae.checkpoint.files.source import Record
from mvae.checkpoint.formats.contents import Contents
from mvae.checkpoint.formats.one_file import make_storage
from mvae.checkpoint.pickled import steps as pickled
from mvae.checkpoint.report.report import Report
from mvae.errors import CheckpointError
from mvae.moving import Moving, steps
from mvae.text import printable

MAX_PIECES, MAX_STEPS, MAX_STACK = 100, 60, 16
_BOOKMARKS = ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_FILLS = (0.85, 0.5, 0.2, 0)
_MAP_STYLE = """
.mvae-byte-map svg text{font-size:16px}
.mvae-byte-map .on .all{fill:currentColor;fill-opacity:.15;stroke:currentColor;stroke-width:2}
"""


def byte_map(file: Report) -> Moving:
    """Every range of a checkpoint, from its first byte to its last: whose it is, and which instruction refers to it.

    A column for each piece, in the order of the file; its height grows with the logarithm of its bytes. Of more than
    `MAX_PIECES` pieces the first are shown, and how many there are.

    Args:
        file: the checkpoint.

    Raises:
        CheckpointError: it is a folder, whose pieces lie in several files.
    """
    if len({id(record.source) for record, _ in file.owners}) > 1:
        raise CheckpointError(f"{file.path} is a folder. A map of bytes is of one file: give one of those in it.")
    spans = _spans(file)
    tensors, refers = _tensors(file), _refers(file.contents)
    rows = []
    for number, (start, end, record, owner) in enumerate(spans[:MAX_PIECES], start=1):
        data = f"{record.offset:,} – {record.offset + record.stored - 1:,}" if record and record.stored else "–"
        name = _name(file.contents, record) if record else "the end of the file"
        told = (", ".join(tensors[id(record)]) or "–", refers.get(id(record), "–"))
        rows.append((f"{number}", f"{start:,} – {end - 1:,}", f"{end - start:,}", name, owner, data, *told))
    head = ("range", "bytes", "how many", "name", "owner", "its data", "tensor", "named in the pickle")
    more = f" (the first {MAX_PIECES} of {len(spans):,} ranges)" if len(spans) > MAX_PIECES else ""
    title = f"{file.size:,} bytes, range by range{more}"
    letters = dict(zip(sorted({owner for *_, owner in spans}, key=list(file.bytes).index), _LETTERS, strict=False))
    return steps("byte-map", title, head, rows, _columns(spans[:MAX_PIECES], letters), _MAP_STYLE)


def pickle_steps(data: bytes | memoryview) -> Moving:
    """A pickle gone through instruction by instruction, with the stack after each. Nothing in it is run.

    One that puts what was just made into the memo (a bookmark) is told in the line of the one before it.

    Args:
        data: the pickle. Its first `MAX_STEPS` instructions are shown, or those in front of a damaged one.
    """
    found = list(islice(pickled.steps(data, lambda pid: _storage(pid, {})), 2 * MAX_STEPS + 1))
    rows: list[list[str | list[str]]] = []
    for at, name, argument, does, stack in found:
        if name in _BOOKMARKS and rows:
            rows[-1][4] = f"{rows[-1][4]} Bookmark {argument or 'it'}."
            continue
        shown = stack if len(stack) <= MAX_STACK else [f"… {len(stack) - MAX_STACK} below", *stack[-MAX_STACK:]]
        rows.append([f"{len(rows) + 1}", f"{at:,}", name, argument, does, shown])
    more = "" if len(rows) <= MAX_STEPS and len(found) <= 2 * MAX_STEPS else ", the first of a longer program"
    rows = rows[:MAX_STEPS]
    title = f"{len(rows)} instructions of a pickle{more}, and the stack after each"
    head = ("instruction", "byte", "name", "argument", "what it does", "stack, top last")
    return steps("pickle-steps", title, head, rows, '<div class="mvae-stage"></div>')


_Span = tuple[int, int, Record | None, str]


def _spans(file: Report) -> list[_Span]:
    """(first byte, past the last, piece, owner) without a gap: what lies in front of a piece's data is its header."""
    starts = sorted(((_start(record), record, owner) for record, owner in file.owners), key=lambda piece: piece[0])
    archive = file.contents.archive
    past = archive.directory[0] if archive else file.size
    ends = [*(start for start, *_ in starts[1:]), past]
    spans: list[_Span] = [(start, end, record, owner) for (start, record, owner), end in zip(starts, ends, strict=True)]
    return [*spans, (past, file.size, None, "zip bookkeeping")] if archive else spans


def _start(record: Record) -> int:
    return record.header if isinstance(record, Member) else record.offset


def _name(contents: Contents, record: Record) -> str:
    """Without the folder that all members of a zip are in."""
    return printable(record.name.removeprefix(contents.archive.root if contents.archive else ""), 60)


def _tensors(file: Report) -> dict[int, list[str]]:
    """`id` of a piece → the names of the tensors in it, the first three."""
    names: dict[int, list[str]] = defaultdict(list)
    for entry in file.tensors:
        if entry.tensor.storage is not None:
            names[id(entry.tensor.storage.record)].append(f"{printable(entry.name, 60)} {list(entry.tensor.shape)}")
    return defaultdict(list, {key: [*some[:3], *["…"] * (len(some) > 3)] for key, some in names.items()})


def _refers(contents: Contents) -> dict[int, str]:
    """`id` of a piece → the instruction of the pickle that first names it."""
    found = {}
    for pickle in contents.pickles if contents.storages else []:
        at = pickled.references(pickle.view(), lambda pid: _storage(pid, contents.storages))
        for storage in contents.storages.values():
            if id(storage) in at:
                place = f"byte {at[id(storage)]:,} of {_name(contents, pickle)}: BINPERSID"
                found[id(storage.record)] = f"{place} '{printable(storage.key, 20)}'"
    return found


def _storage(pid: Any, known: dict[str, Any]) -> Any:
    return make_storage(pid, known) if type(pid) is tuple and pid[:1] == ("storage",) else None


def _columns(spans: list[_Span], letters: dict[str, str]) -> str:
    """The picture: a column for each range, a letter and a shade for each owner."""
    width, most = 1000 / len(spans), max(math.log(end - start + 1) for start, end, *_ in spans)
    drawn = ""
    for row, (start, end, _, owner) in enumerate(spans):
        letter, x = letters.get(owner, "·"), row * width
        high = 4 + 90 * math.log(end - start + 1) / most
        fill = _FILLS[min(_LETTERS.find(letter) % 26, len(_FILLS) - 1)]
        text = f'<text x="{x + width / 2:.1f}" y="114">{letter}</text>' if len(spans) < 70 else ""
        drawn += (
            f'<g data-row="{row}"><rect class="all" x="{x:.1f}" y="2" width="{width:.1f}" height="116" fill="none" '
            f'pointer-events="all"/><rect x="{x + 1:.1f}" y="{100 - high:.1f}" width="{max(1, width - 2):.1f}" '
            f'height="{high:.1f}" stroke="currentColor" fill-opacity="{fill}"/>{text}</g>'
        )
    legend = " · ".join(f"{letter} {escape(owner)}" for owner, letter in letters.items())
    return (
        '<svg viewBox="0 0 1000 120" fill="currentColor" text-anchor="middle" role="img" aria-label="A column for each '
        f'range of the file, in its order; high ones are large, on a scale of powers">{drawn}</svg><p>{legend}. A '
        "column twice as high is not twice as large: the scale is logarithmic.</p>"
    )
