"""Save what a truncated or damaged checkpoint still holds, as a checkpoint that loads.

What is kept is right to the bit, wherever there is a checksum to say so; what is not is left out, and listed. The new
file has plain values only, so that `torch.load(weights_only=True)` takes it: foreign objects are replaced by their
content, and listed too.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from mvae.checkpoint.files.source import Input, Source
from mvae.checkpoint.formats.detect import Format
from mvae.checkpoint.formats.stream import Progress, Stream
from mvae.checkpoint.formats.zip_writer import Output, output, refuse_to_overwrite, write_checkpoint
from mvae.checkpoint.pickled.values import Storage, Tensor
from mvae.checkpoint.pickled.writer import Pickler, Replaced
from mvae.checkpoint.report.byte_budget import Sections, of_weights
from mvae.checkpoint.report.entries import TensorEntry
from mvae.checkpoint.report.report import Report
from mvae.checkpoint.tools.remains import Remains, find_remains
from mvae.errors import CheckpointError
from mvae.text import printable, size


class Lost(NamedTuple):
    """A tensor that could not be saved, and why."""

    name: str
    why: str
    place: str = ""
    """Where in the checkpoint it was, such as `optimizer_states.0`."""


_FEW = 3
"""Lost tensors of one place that are named one by one."""


@dataclass
class Salvage:
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

    path: str
    out: str
    size: int = 0
    kept: list[str] = field(default_factory=list)
    lost: list[Lost] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    replaced: list[Replaced] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    sections: dict[str, tuple[int, int]] = field(default_factory=dict)
    places: dict[str, int] = field(default_factory=dict)
    consequence: str = ""

    @property
    def complete(self) -> bool:
        """True if no tensor was lost."""
        return not self.lost

    def to_dict(self) -> dict[str, Any]:
        """The attributes, as JSON takes them."""
        return {
            "path": self.path,
            "out": self.out,
            "size": self.size,
            "complete": self.complete,
            "kept": self.kept,
            "lost": [lost._asdict() for lost in self.lost],
            "unchecked": self.unchecked,
            "replaced": [replaced.to_dict() for replaced in self.replaced],
            "notes": self.notes,
            "sections": {heading: list(counts) for heading, counts in self.sections.items()},
            "consequence": self.consequence,
        }

    def __str__(self) -> str:
        return self.text()

    def text(self, everything: bool = False) -> str:
        """The report for people.

        Args:
            everything: name each tensor that is lost, however many there are.
        """
        count = len(self.kept) + len(self.lost)
        lines = [f"{printable(self.out)}: {len(self.kept):,} of {count:,} tensors saved, {size(self.size)}"]
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
                lines.append(f"  {printable(place)}: {len(group):,} of {self.places[place]:,} tensors lost")
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
    if not isinstance(path, (bytes, bytearray, memoryview)) and os.path.isdir(path):
        raise CheckpointError(f"{os.fspath(path)} is a folder; salvage works on one file.")
    refuse_to_overwrite(path, out)
    source = Source.open(path)
    remains = find_remains(source, progress)
    tree = remains.contents.tree
    kept = {id(storage) for storage in remains.contents.storages.values() if storage.record is not None}

    def keep(value: Tensor | Storage) -> bool:
        return all(id(storage) in kept or storage.location == "meta" for storage in storages_of(value))

    if isinstance(tree, (Tensor, Storage)) and not keep(tree):
        raise CheckpointError(f"nothing to save: the only tensor in {source.name} is lost.")
    found = Salvage(source.name, os.fspath(out) if isinstance(out, (str, os.PathLike)) else "-", notes=remains.notes)
    _sort(found, remains)
    pickler = Pickler(keep)
    with output(out) as file, Stream(progress) as stream:
        found.size = write_checkpoint(file, tree, lambda stored: stream.storage(stored.storage, stored.dtype), pickler)
    found.replaced = pickler.replaced
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
    headings = Sections(remains.contents.tree)
    there, kept, places = Counter[str](), Counter[str](), Counter[str]()
    unchecked = set(remains.unchecked)
    optimizer_lost = False
    for entry in Report(remains.contents).tensors:
        heading = headings.of(entry.path)
        place = ".".join(map(str, headings.place(entry.path)))
        there[heading] += 1
        places[place] += 1
        why = _why_lost(entry, remains)
        if why:
            found.lost.append(Lost(entry.name, why, place))
            optimizer_lost = optimizer_lost or headings.in_optimizer(entry.path)
            continue
        kept[heading] += 1
        found.kept.append(entry.name)
        if any(storage.key in unchecked for storage in storages_of(entry.tensor)):
            found.unchecked.append(entry.name)
    unlisted = remains.lost.keys() - remains.contents.storages.keys()  # safetensors has no tree without its tensors
    found.lost += [Lost(name, remains.lost[name]) for name in remains.lost if name in unlisted]
    if remains.contents.format is Format.SAFETENSORS:
        there.update(of_weights((name,)) for name in unlisted)
    order = sorted(there, key=lambda heading: heading not in ("weights", "buffers"))
    found.sections = {heading: (kept[heading], there[heading]) for heading in order}
    found.places = dict(places)
    found.consequence = _consequence(found.sections, optimizer_lost)


def _consequence(sections: dict[str, tuple[int, int]], optimizer_lost: bool) -> str:
    """What can be done with the new file."""
    model = [sections[heading] for heading in ("weights", "buffers") if heading in sections]
    count, lost = sum(there for _, there in model), sum(there - kept for kept, there in model)
    if lost:
        return f"{lost:,} of the model's {count:,} weights are lost: it can be used only in part."
    if count and optimizer_lost:
        return (
            f"All {count:,} weights are whole; the optimizer's state is not: load it for inference, or resume with a "
            "fresh optimizer."
        )
    return ""


def _why_lost(entry: TensorEntry, remains: Remains) -> str:
    reasons = (remains.lost.get(storage.key) for storage in storages_of(entry.tensor))
    return next((reason for reason in reasons if reason is not None), "")
