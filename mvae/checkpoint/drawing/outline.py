"""A checkpoint as an outline of short lines, folded where it is long, for whoever draws it: terminal or notebook."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from mvae.checkpoint.pickled.meaning import meaning
from mvae.checkpoint.pickled.values import Global, Object, ObjectDict, Tensor
from mvae.checkpoint.pickled.walk import Path, children, count, is_leaf
from mvae.checkpoint.report.entries import byte_span
from mvae.checkpoint.report.report import Report
from mvae.text import printable, size

MAX_LINE = 96
"""Letters of a value that a line shows; a container that fits is written in one line."""
MAX_CHILDREN = 24
"""Entries of a container that are listed; of more, this many less one, and how many there are."""
MAX_NODES = 20_000
_MAX_DEPTH = 64


@dataclass
class Node:
    """One line.

    Attributes:
        label: the key, position or name.
        text: the value, or a summary of it.
        style: `key`, `tensor`, `foreign`, `danger` or `more`.
        children: what is inside, as far as it is shown.
    """

    label: str
    text: str = ""
    style: str = "key"
    children: list[Node] = field(default_factory=list)


class Outline:
    """Builds the nodes of one checkpoint.

    Args:
        file: the checkpoint.
        depth: levels below the top that are unfolded.
        everything: unfold all levels, and long containers too.
    """

    def __init__(self, file: Report, depth: int = 2, everything: bool = False) -> None:
        self.file = file
        self.depth = _MAX_DEPTH if everything else min(depth, _MAX_DEPTH)
        self.left = sys.maxsize if everything else MAX_NODES
        self.most = sys.maxsize if everything else MAX_CHILDREN
        self.system = {refusal.name for refusal in file.safety.system}
        self.shared = _shared(file)

    def nodes(self) -> list[Node]:
        """The lines below the file's own: single values together, then each container."""
        tree = self.file.tree
        if not isinstance(tree, dict):
            return [self._node("", tree, self.depth, ())]
        short = {key: value for key, value in tree.items() if is_leaf(value) and not isinstance(value, Tensor)}
        long = ((key, value) for key, value in tree.items() if key not in short)
        found = self._listed(long, len(tree) - len(short), self.depth, ())
        if short and self.most == sys.maxsize:
            found += [Node(printable(str(key)), self._brief(value)) for key, value in short.items()]
        elif short:
            shown = [f"{printable(str(key), 40)} {self._brief(value)}" for key, value in short.items()]
            found.append(Node(printable(" · ".join(shown[:20]), 2 * MAX_LINE)))
        return found

    def _listed(self, parts: Iterable[tuple[Any, Any]], total: int, depth: int, path: Path) -> list[Node]:
        """A line for each of the first parts, and one for the rest."""
        shown = total if total <= self.most else self.most - 1
        found = [self._node(step, part, depth, (*path, step)) for step, part in islice(parts, shown)]
        return [*found, more(total - shown)] if shown < total else found

    def _node(self, label: Any, value: Any, depth: int, path: Path) -> Node:
        self.left -= 1
        name = printable(str(label), 48)
        if isinstance(value, Tensor):
            return self._tensor(name, value, depth, path)
        if isinstance(value, Object):
            return self._object(name, value, depth, path)
        if is_leaf(value) or not count(value):
            return Node(name, self._brief(value))
        line = self._one_line(value)
        if line is not None:
            return Node(name, line)
        return Node(name, self._summary(value), children=self._inside(value, depth, path))

    def _inside(self, value: Any, depth: int, path: Path) -> list[Node]:
        """The lines of what is in a container; none where the outline ends."""
        if depth <= 0 or self.left <= 0:
            return []
        parts, total = children(value), count(value)
        if isinstance(value, Object) and total < 100:  # an nn.Module has a dozen empty dicts for hooks
            kept = [(step, part) for step, part in parts if part or not str(step).startswith("_")]
            parts, total = iter(kept), len(kept)
        return self._listed(parts, total, depth - 1, path)

    def _tensor(self, name: str, tensor: Tensor, depth: int, path: Path) -> Node:
        text = f"{list(tensor.shape)} {tensor.dtype}"
        if tensor.numel == 1 and tensor.file_offset is not None:
            text += f" = {self._brief(tensor.item())}"
        elif tensor.nbytes >= 1000:
            text += f"  {size(tensor.nbytes)}"
        if tensor.kind not in ("Tensor", "Parameter"):
            text += f"  {printable(tensor.kind, 60)}"
        full = ".".join(map(str, path))
        if full in self.shared:
            how, first = self.shared[full]
            text += f"  {how} {printable(first, 48)}"
        return Node(name, text, "tensor", self._inside(tensor, depth, path))

    def _object(self, name: str, value: Object, depth: int, path: Path) -> Node:
        cls = printable(str(value.cls), 80)
        style = "danger" if str(value.cls) in self.system else "foreign"
        known = meaning(value)
        if known is not value:
            line = self._one_line(known) if count(known) else self._brief(known)
            return Node(name, f"{cls}  {line or ''}", style, [] if line else self._inside(known, depth, path))
        arguments = self._one_line(value.args) if value.args else None
        if arguments is not None and count(value) == 1:
            return Node(name, f"{cls}{arguments}", style)
        return Node(name, cls, style, self._inside(value, depth, path))

    def _summary(self, value: Any) -> str:
        """What is in a container, in a few words: `12 tensors, 34.0 MB`, `12 × (step, exp_avg, exp_avg_sq)`."""
        total = count(value)
        rows = [part for _, part in children(value) if isinstance(part, dict) and len(part) < 12]
        if total == len(rows) > 1 and all(row.keys() == rows[0].keys() for row in rows):
            return printable(f"{total:,} × ({', '.join(map(str, rows[0]))})", MAX_LINE)
        kind = value.cls.name if isinstance(value, ObjectDict) else type(value).__name__
        tensors = [part for _, part in children(value) if type(part) is Tensor]
        if tensors and len(tensors) >= total - 1:
            return f"{len(tensors):,} tensor{'s'[: len(tensors) > 1]}, {size(sum(tensor.nbytes for tensor in tensors))}"
        return f"{printable(kind, 40)} of {len(value) if hasattr(value, '__len__') else total:,}"

    def _one_line(self, value: Any) -> str | None:
        """A container of plain values in one line, if it fits."""
        parts = list(islice(children(value), 17))
        if len(parts) > 16 or not all(_is_short(part) for _, part in parts):
            return None
        if not parts:
            return "[]" if isinstance(value, list) else "()" if isinstance(value, tuple) else "{}"
        if isinstance(value, dict):
            line = " · ".join(f"{printable(str(key), 40)} {self._brief(part)}" for key, part in parts)
        else:
            left, right = ("(", ")") if isinstance(value, tuple) else ("[", "]")
            line = left + ", ".join(self._brief(part) for _, part in parts) + right
        return line if len(line) <= MAX_LINE else None

    def _brief(self, value: Any) -> str:
        """A plain value in a few letters; numbers short enough to read."""
        if isinstance(value, str):
            return printable(f'"{value}"', MAX_LINE)
        if isinstance(value, float):
            text = f"{value:.10g}"
            return f"{text}.0" if text.lstrip("-").isdigit() else text
        if isinstance(value, int) and value.bit_length() > 200:
            return f"integer of {value.bit_length():,} bits"
        if isinstance(value, (bytes, bytearray)):
            return f"{len(value):,} bytes"
        if isinstance(value, (dict, list, tuple, set, frozenset)):
            return self._one_line(value) or "…"
        return printable(repr(value) if isinstance(value, Global) else str(value), MAX_LINE)


def _shared(file: Report) -> dict[str, tuple[str, str]]:
    """Name → what a tensor has in common with the first on its storage, and the name of that one."""
    found = {}
    for first, *others in file.shared.values():
        one = file.tensor(first)
        start, end = byte_span(one)
        for name in others:
            other = file.tensor(name)
            span = byte_span(other)
            if (other.shape, other.stride, span) == (one.shape, one.stride, (start, end)):
                how = "same bytes as"
            elif span[0] < end and start < span[1]:
                how = "shares bytes with"
            else:
                how = "on one storage, with other bytes than"
            found[name] = how, first
    return found


def _is_short(value: Any) -> bool:
    """A plain value, or a list of a few."""
    if type(value) in (list, tuple) and len(value) <= 8:
        return all(is_leaf(part) and not isinstance(part, Tensor) for part in value)
    return is_leaf(value) and not isinstance(value, Tensor)


def more(count: int) -> Node:
    """The line in place of what is folded."""
    return Node(f"… {count:,} more; `mvae inspect --all` shows them", style="more")
