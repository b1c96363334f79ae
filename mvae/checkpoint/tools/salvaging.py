"""Save what a truncated or damaged checkpoint still holds, as a checkpoint that loads.

What is kept is right to the bit, wherever there is a checksum to say so; what is not is left out, and listed. The new
file has plain values only, so that `torch.load(weights_only=True)` takes it: foreign objects are replaced by their
content, and listed too.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mvae.checkpoint.files.source import Input, Source
from mvae.checkpoint.formats.detect import Format
from mvae.checkpoint.formats.stream import Progress
from mvae.checkpoint.formats.zip_writer import Output, refuse_to_overwrite
from mvae.checkpoint.pickled.plain import Replaced
from mvae.checkpoint.pickled.values import Storage, Tensor
from mvae.checkpoint.pickled.walk import Path, is_leaf, walk
from mvae.checkpoint.pickled.writer import Pickler
from mvae.checkpoint.report.byte_budget import Sections
from mvae.checkpoint.report.entries import TensorEntry
from mvae.checkpoint.report.report import Report
from mvae.checkpoint.report.weights import is_buffer
from mvae.checkpoint.tools.plain_values import name_of, refuse_folder, write_plain
from mvae.checkpoint.tools.remains import Remains, find_remains, nothing
from mvae.text import Result, dotted, many, printable, size


class Lost(NamedTuple):
    """A tensor that could not be saved, and why."""

    name: str
    why: str
    place: str = ""
    """Where in the checkpoint it was, such as `optimizer_states.0`."""


_FEW = 3
"""Lost tensors of one place that are named one by one."""


@dataclass
class Salvage(Result):
    """What was saved, and what was not.

    Attributes:
        path: of the damaged file.
        out: what was written.
        size: bytes of it.
        kept: names of the tensors in it.
        lost: the others.
        unchecked: those kept that have no checksum to compare with.
        replaced: values that were foreign objects.
        notes: what is wrong with the file as a whole, one sentence each.
        sections: heading → (tensors kept, tensors there were), the weights first.
        places: part of the checkpoint → tensors there were.
        consequence: what the new file is good for, one sentence; empty if nothing was lost, or if it cannot be told.
    """

    also = ("complete",)

    path: str
    out: str
    size: int = 0
    kept: list[str] = field(default_factory=list)
    lost: list[Lost] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    replaced: list[Replaced] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    sections: dict[str, tuple[int, int]] = field(default_factory=dict)
    places: dict[str, int] = field(default_factory=dict, repr=False)
    consequence: str = ""

    @property
    def complete(self) -> bool:
        """True if nothing was lost: no tensor, and no value that has no plain form."""
        return not self.lost and not any(replaced.lost for replaced in self.replaced)

    def __str__(self) -> str:
        return self.text()

    def text(self, everything: bool = False) -> str:
        """The report for people.

        Args:
            everything: name each tensor that is lost, however many there are.
        """
        count = len(self.kept) + len(self.lost)
        lines = [f"{printable(self.out)}: {len(self.kept):,} of {many(count, 'tensor')} saved, {size(self.size)}"]
        lines += [f"  {printable(heading)}: {kept:,} of {all_:,}" for heading, (kept, all_) in self.sections.items()]
        lines += [f"  {self.consequence}"] if self.consequence else []
        lines += self._lost(everything)
        if self.unchecked:
            lines.append(f"  {len(self.unchecked):,} of those saved have no checksum, so nothing says they are right")
        lines += [f"  {replaced}" for replaced in self.replaced]
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])

    def _lost(self, everything: bool) -> list[str]:
        by_place: dict[str, list[Lost]] = {}
        for lost in self.lost:
            by_place.setdefault(lost.place, []).append(lost)
        lines, folded = [], False
        for place, group in by_place.items():
            if everything or len(group) <= _FEW or place not in self.places:
                lines += [f"  lost: {printable(lost.name)} ({lost.why})" for lost in group]
            else:
                lines.append(f"  {printable(place)}: {len(group):,} of {many(self.places[place], 'tensor')} lost")
                folded = True
        return [*lines, "  each of them by name with --all"] if folded else lines


def salvage(path: Input, out: Output, progress: Progress | None = None) -> Salvage:
    """Write all that can be saved of a checkpoint to `out`.

    A dict loses the tensors that are lost, a list has None in their place. `out` takes its name only when all of it is
    on the disk.

    Args:
        path: the damaged file, or its bytes.
        out: the file to write, or a binary stream.
        progress: told how many bytes were read.

    Raises:
        CheckpointError: nothing can be saved; `out` is the damaged file; or `out` cannot be written.
    """
    refuse_folder(path, "salvage")
    refuse_to_overwrite(path, out)
    source = Source.open(path)
    remains = find_remains(source, progress)
    tree = remains.contents.tree
    kept = {id(storage) for storage in remains.contents.storages.values() if storage.record is not None}

    def keep(value: Tensor | Storage) -> bool:
        return all(id(storage) in kept or storage.location == "meta" for storage in storages_of(value))

    if isinstance(tree, (Tensor, Storage)) and not keep(tree):
        raise nothing(f"the only tensor in {source.name} is lost.")
    found = Salvage(source.name, name_of(out), notes=remains.notes)
    _sort(found, remains)
    if not found.kept and not _has_values(tree):
        raise nothing(f"in what is left of {source.name} there is neither a tensor nor a value.")
    found.size, found.replaced = write_plain(tree, out, Pickler(keep), progress)
    return found


def storages_of(value: Tensor | Storage) -> list[Storage]:
    """The storages that a tensor, or the tensors it is made of, lie in."""
    found: list[Storage] = []
    entered: set[int] = set()
    stack: list[Any] = [value]
    while stack:
        part = stack.pop()
        if isinstance(part, Storage):
            found.append(part)
        elif isinstance(part, Tensor) and id(part) not in entered:
            entered.add(id(part))
            stack += [part.storage, *(part.parts or {}).values()]
    return found


def _sort(found: Salvage, remains: Remains) -> None:
    """Which tensors are kept, which are lost, and how many of each kind."""
    report = Report(remains.contents)
    headings, entries = report.sections, report.tensors
    why = {entry.name: _why_lost(entry, remains) for entry in entries}
    lost = [entry.path for entry in entries if why[entry.name]]
    halves = _leave_halves_out(remains.contents.tree, headings, lost)
    there, kept = Counter[str](), Counter[str]()
    unchecked = set(remains.unchecked)
    for entry in entries:
        heading, place = headings.of(entry.path), dotted(headings.place(entry.path)) or "the file"
        there[heading] += 1
        found.places[place] = found.places.get(place, 0) + 1
        useless = "left out: of no use without the rest, which is lost" if _within(entry.path, halves) else ""
        reason = why[entry.name] or useless
        if reason:
            found.lost.append(Lost(entry.name, reason, place))
            continue
        kept[heading] += 1
        found.kept.append(entry.name)
        if any(storage.key in unchecked for storage in storages_of(entry.tensor)):
            found.unchecked.append(entry.name)
    unlisted = remains.lost.keys() - remains.contents.storages.keys()  # safetensors has no tree without its tensors
    found.lost += [Lost(name, remains.lost[name]) for name in remains.lost if name in unlisted]
    if remains.contents.format is Format.SAFETENSORS:
        there.update("buffers" if is_buffer(name) else "weights" for name in unlisted)
    order = sorted(there, key=lambda heading: heading not in ("weights", "buffers"))
    found.sections = {heading: (kept[heading], there[heading]) for heading in order}
    settings_lost = any(headings.in_optimizer(path) and not _within(path, halves) for path in lost)
    optimizers_lost = settings_lost or any(headings.in_optimizer(path) for path in halves)
    found.consequence = _consequence(found.sections, optimizers_lost, settings_lost)


def _within(path: Path, places: list[Path]) -> bool:
    return any(path[: len(place)] == place for place in places)


def _leave_halves_out(tree: Any, headings: Sections, lost: list[Path]) -> list[Path]:
    """Take out of the tree what is of no use in part, so that training can go on from the rest; give the places.

    What an optimizer keeps for a parameter ends in a `KeyError` if half of it is lost, and so does the state of a
    callback. Without any, the parameter is as before its first step, and the callback is as new. If most parameters
    are concerned, all of them start afresh.
    """
    halves: dict[Path, None] = {}
    for path in lost:
        place = headings.place(path)
        if headings.in_optimizer(path) and path[len(place)] == "state" and len(path) > len(place) + 2:
            halves[path[: len(place) + 2]] = None
        elif path[0] == "callbacks" and len(path) > 2:
            halves[path[:2]] = None
    for optimizer in {headings.place(path): None for path in halves if headings.in_optimizer(path)}:
        concerned = [path for path in halves if path[: len(optimizer)] == optimizer]
        if 2 * len(concerned) > len(_at(tree, concerned[0][:-1])):
            halves = {path: None for path in halves if path not in concerned} | {(*optimizer, "state"): None}
    for path in halves:
        inside = _at(tree, path[:-1])
        if path[-1] == "state":
            inside["state"] = {}
        else:
            inside.pop(path[-1], None)
    return list(halves)


def _at(tree: Any, path: Path) -> dict[Any, Any]:
    """The dict at a path; an empty one if what is there is none."""
    for step in path:
        tree = tree[step] if isinstance(tree, (dict, list, tuple)) else {}
    return tree if isinstance(tree, dict) else {}


def _has_values(tree: Any) -> bool:
    """True if there is anything in it but tensors and empty containers."""
    return any(is_leaf(part) and not isinstance(part, (Tensor, Storage)) for _, part in walk(tree))


def _consequence(sections: dict[str, tuple[int, int]], optimizers_lost: bool, settings_lost: bool) -> str:
    """What can be done with the new file."""
    model = [sections[heading] for heading in ("weights", "buffers") if heading in sections]
    count, lost = sum(there for _, there in model), sum(there - kept for kept, there in model)
    if lost:
        are = "is" if lost == 1 else "are"
        return f"{lost:,} of the model's {many(count, 'weight')} {are} lost: it can be used only in part."
    whole = f"All {count:,} weights are whole; the optimizer's state is not"
    if count and settings_lost:
        return f"{whole}, nor are its settings: load it for inference."
    if count and optimizers_lost:
        return (
            f"{whole}: what of it is of no use is left out, so that training goes on from the new file, with the same "
            "settings and in part afresh."
        )
    return ""


def _why_lost(entry: TensorEntry, remains: Remains) -> str:
    reasons = (remains.lost.get(storage.key) for storage in storages_of(entry.tensor))
    return next((reason for reason in reasons if reason is not None), "")
