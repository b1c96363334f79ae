"""What `diff` finds: a value to work with, and in words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mvae.checkpoint.formats.stream import Progress
from mvae.checkpoint.inspection import CheckpointFile
from mvae.checkpoint.pickled.values import Tensor
from mvae.checkpoint.report.entries import TensorEntry
from mvae.checkpoint.tools.value_changes import ValueChange
from mvae.text import as_json, many, printable

if TYPE_CHECKING:
    from mvae.checkpoint.tools.amounts import Amount

_LIMIT = 16
"""Lines under one heading; the rest is counted."""


class TensorChange:
    """A tensor that is in both files and not the same.

    Attributes:
        name: in the first file.
        a, b: the tensor in each.
    """

    def __init__(self, name: str, a: Tensor, b: Tensor, progress: Progress | None = None) -> None:
        self.name = name
        self.a = a
        self.b = b
        self._progress = progress

    @cached_property
    def amount(self) -> Amount | None:
        """By how much; None if the shapes differ, or if the elements are no numbers.

        Both files are read when this is first asked for.

        Raises:
            CheckpointError: the bytes cannot be read.
        """
        from mvae.checkpoint.tools.amounts import measure

        return measure(self.a, self.b, self._progress)

    def to_dict(self) -> dict[str, Any]:
        """name, dtype and shape in both files, and the amount, as JSON takes them."""
        return {
            "name": self.name,
            "dtype": [self.a.dtype, self.b.dtype],
            "shape": [list(self.a.shape), list(self.b.shape)],
            "amount": as_json(self.amount),
        }


@dataclass
class Difference:
    """What `diff` found.

    Attributes:
        a, b: the two checkpoints.
        values: plain values that differ.
        equal: how many tensors are the same in both.
        changed: tensors that are not.
        only_a, only_b: tensors that one file has and the other lacks.
        renamed: pairs of names under which the files have the same tensor.
        prefixes: (prefix in a, prefix in b, tensors): names that differ in the prefix alone were compared.
        reordered: True if the tensors stand in another order, which no loader minds.
        by_bytes: how many tensors had to be read to be compared.
        by_checksums: how many are taken for the same because the checksums stored in the files are; no data was read.
    """

    a: CheckpointFile
    b: CheckpointFile
    values: list[ValueChange] = field(default_factory=list)
    equal: int = 0
    changed: list[TensorChange] = field(default_factory=list)
    only_a: list[TensorEntry] = field(default_factory=list)
    only_b: list[TensorEntry] = field(default_factory=list)
    renamed: list[tuple[str, str]] = field(default_factory=list)
    prefixes: list[tuple[str, str, int]] = field(default_factory=list)
    reordered: bool = False
    by_bytes: int = 0
    by_checksums: int = 0

    @property
    def same(self) -> bool:
        """True if every value and every tensor is in both files, under the same name and equal."""
        return not (self.values or self.changed or self.only_a or self.only_b or self.renamed or self.prefixes)

    def to_dict(self) -> dict[str, Any]:
        """All of it, as JSON takes it; reads the tensors that changed."""
        return {
            "a": self.a.path,
            "b": self.b.path,
            "same": self.same,
            "values": [change.to_dict() for change in self.values],
            "tensors": {
                "equal": self.equal,
                "equal_by_stored_checksums": self.by_checksums,
                "changed": [change.to_dict() for change in self.changed],
                "only_a": [entry.to_dict() for entry in self.only_a],
                "only_b": [entry.to_dict() for entry in self.only_b],
                "renamed": [list(pair) for pair in self.renamed],
                "prefixes": [{"a": a, "b": b, "tensors": count} for a, b, count in self.prefixes],
                "reordered": self.reordered,
            },
        }

    def __str__(self) -> str:
        return "\n".join(lines(self))


# --- in words


def lines(found: Difference) -> Iterator[str]:
    """The report line by line, so that the first lines can be seen while the tensors behind the next are read."""
    yield f"A  {printable(found.a.path)}"
    yield f"B  {printable(found.b.path)}"
    if found.same:
        order = ", in another order" if found.reordered else ""
        yield f"the same: every value, and {found.equal:,} of {many(found.equal, 'tensor')}{order}"
        yield from _how(found)
        return
    if found.values:
        yield f"values: {len(found.values):,} differ"
        yield from _folded("  ", (str(change) for change in found.values), len(found.values))
    yield _counts(found)
    yield from _how(found)
    for prefix_a, prefix_b, count in found.prefixes:
        yield f"  named {_pattern(prefix_a)} in A and {_pattern(prefix_b)} in B: {count:,}"
    yield from _folded("  = ", (printable(f"{a}  is  {b}") for a, b in found.renamed), len(found.renamed))
    yield from _by_section(found)


def _counts(found: Difference) -> str:
    parts = [f"{found.equal:,} the same", f"{len(found.changed):,} changed"]
    for count, what in ((len(found.only_a), "only in A"), (len(found.only_b), "only in B")):
        if count:
            parts.append(f"{count:,} {what}")
    return "tensors: " + ", ".join(parts)


def _how(found: Difference) -> Iterator[str]:
    if found.by_checksums:
        count = "" if found.by_checksums == found.equal else f"{found.by_checksums:,} of them "
        yield f"  {count}the same by their stored checksums; the data was not read (`mvae verify` does)"


def _pattern(prefix: str) -> str:
    return f"'{printable(prefix)}…'" if prefix else "'…'"


def _by_section(found: Difference) -> Iterator[str]:
    """The tensors under the headings of the byte budget: weights, each of the optimizer's moments."""
    paths = {entry.name: entry.path for entry in found.a.tensors}
    headings = found.a.sections
    changed: dict[str, list[TensorChange]] = {}
    for change in found.changed:
        changed.setdefault(headings.of(paths[change.name]), []).append(change)
    for heading, changes in changed.items():
        yield f"  {printable(heading)}: {len(changes):,} changed"
        yield from _folded("    ~ ", map(_change, changes), len(changes))
    for sign, which, entries in (("-", "A", found.only_a), ("+", "B", found.only_b)):
        if entries:
            yield f"  only in {which}: {len(entries):,}"
            yield from _folded(f"    {sign} ", map(_entry, entries), len(entries))


def _folded(indent: str, shown: Iterable[str], total: int) -> Iterator[str]:
    limit = _LIMIT if total > _LIMIT + 1 else total
    for number, line in enumerate(shown):
        if number == limit:
            yield f"{' ' * len(indent)}… {total - limit:,} more; all of them with --json"
            return
        yield indent + line


def _entry(entry: TensorEntry) -> str:
    return f"{printable(entry.name, 120)}  {_kind(entry.tensor)}"


def _kind(tensor: Tensor) -> str:
    return f"{tensor.dtype} {list(tensor.shape)}"


def _change(change: TensorChange) -> str:
    name, a, b = printable(change.name, 120), _kind(change.a), _kind(change.b)
    kind = a if a == b else f"{a} → {b}"
    amount = change.amount
    if amount is None:
        return f"{name}  {kind}"
    if amount.elements == 1:
        return f"{name}  {kind}  {amount.before} → {amount.after}"
    how = [f"max |Δ| {amount.max_abs:.3g}", f"‖Δ‖/‖A‖ {amount.relative:.3g}"]
    how.append(f"{amount.changed:,} of {many(amount.elements, 'element')}")
    if amount.not_finite:
        how.append(f"{amount.not_finite:,} nan or infinite")
    return f"{name}  {kind}  {', '.join(how)}"
