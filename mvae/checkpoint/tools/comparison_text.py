"""A difference between two checkpoints in words, for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from mvae.checkpoint.pickled.values import Tensor
from mvae.checkpoint.report.byte_budget import Sections
from mvae.text import printable

if TYPE_CHECKING:
    from mvae.checkpoint.inspection import TensorEntry
    from mvae.checkpoint.tools.comparing import Difference, TensorChange

_LIMIT = 16
"""Lines under one heading; the rest is counted."""


def text(found: Difference) -> str:
    """The whole report. Reads the tensors that changed, as far as they are shown."""
    return "\n".join(lines(found))


def lines(found: Difference) -> Iterator[str]:
    """The report line by line, so that the first lines can be seen while the tensors behind the next are read."""
    yield f"A  {printable(found.a.path)}"
    yield f"B  {printable(found.b.path)}"
    if found.same:
        order = ", in another order" if found.reordered else ""
        yield f"the same: every value, and {found.equal:,} of {found.equal:,} tensors{order}"
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
    """The tensors under the headings of the byte budget: weights, each of the optimizer's moments, …"""
    paths = {entry.name: entry.path for entry in found.a.tensors}
    headings = Sections(found.a.tree)
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
    how.append(f"{amount.changed:,} of {amount.elements:,} elements")
    if amount.not_finite:
        how.append(f"{amount.not_finite:,} nan or infinite")
    return f"{name}  {kind}  {', '.join(how)}"
