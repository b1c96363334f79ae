"""Every byte of the file under one heading: the weights, each of the optimizer's moments, the pickle, the padding.

The counts add up to the size of the file, exactly. A storage that several tensors share counts once, where it is met
first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from mvae.checkpoint.files.archive import Member
from mvae.checkpoint.files.source import Record
from mvae.checkpoint.formats.contents import Contents
from mvae.checkpoint.formats.detect import Format
from mvae.checkpoint.pickled.values import Storage, Tensor
from mvae.checkpoint.pickled.walk import Path
from mvae.checkpoint.report.optimizers import kind, optimizer_states
from mvae.checkpoint.report.weights import weights_of
from mvae.errors import CheckpointError

_HOUSEKEEPING = ("version", "byteorder", ".format_version", ".storage_alignment", ".data/serialization_id")

_INSIDE = 3
"""Steps from a tensor to the parts it is made of, such as the scales of a quantised one."""


class Sections:
    """Decides which heading a path in the tree belongs under.

    Attributes:
        weights: those of the file, or None.
        optimizers: the states of the optimizers, each with its path.
    """

    def __init__(self, contents: Contents) -> None:
        self.optimizers = list(optimizer_states(contents.tree))
        self._optimizers = {
            path: kind(state) if len(self.optimizers) == 1 else f"{kind(state)}[{number}]"
            for number, (path, state) in enumerate(self.optimizers)
        }
        self._tree = contents.tree if isinstance(contents.tree, dict) else {}
        self.weights = weights_of(contents)

    def of(self, path: Path) -> str:
        """`weights`, `buffers`, `Adam exp_avg`, the top-level key, or `tensors` for one without any."""
        place = self.place(path)
        if place in self._optimizers:
            kept = next((step for step in reversed(path) if isinstance(step, str)), "state")  # LBFGS keeps lists
            return f"{self._optimizers[place]} {kept}"
        name = self.weight(path)
        if name is not None and self.weights is not None:
            if not self.weights.certain:
                return "tensors"
            return "buffers" if name in self.weights.buffers else "weights"
        alone = not self._tree or (len(path) == 1 and isinstance(self._tree[path[0]], Tensor))
        return "tensors" if alone else str(path[0])[:60]

    def weight(self, path: Path) -> str | None:
        """The name of the weight that a path leads to, or into; None if it is another tensor."""
        places = self.weights.places if self.weights is not None else {}
        for end in range(len(path), max(-1, len(path) - 1 - _INSIDE), -1):
            name = places.get(path[:end])
            if name is not None:
                return name
        return None

    def place(self, path: Path) -> Path:
        """The optimizer's state that a path is in, or its first step."""
        for length in (0, 1, 2):  # `next` of a generator takes twice as long, and this is called for every tensor
            if path[:length] in self._optimizers:
                return path[:length]
        return path[:1]

    def in_optimizer(self, path: Path) -> bool:
        """True for what an optimizer keeps."""
        return self.place(path) in self._optimizers


def owners(
    contents: Contents, found: Iterable[tuple[Path, Tensor | Storage]], sections: Sections
) -> list[tuple[Record, str]]:
    """Every piece of the file, once, with the heading that its bytes come under.

    Args:
        contents: the file.
        found: every tensor and storage in it, with its path, in order.
        sections: what each of them belongs to.
    """
    owned: list[tuple[Record, str]] = []
    counted: set[int] = set()
    for path, value in found:
        storage = value if isinstance(value, Storage) else value.storage
        if storage is not None and storage.record is not None and id(storage.record) not in counted:
            counted.add(id(storage.record))
            owned.append((storage.record, sections.of(path)))
    rest = (record for record in contents.records if id(record) not in counted)
    return owned + [(record, _heading(contents, record)) for record in rest]


def byte_budget(contents: Contents, owned: Iterable[tuple[Record, str]]) -> dict[str, int]:
    """Heading → bytes, largest first; the bytes sum to `contents.size`.

    Args:
        contents: the file.
        owned: see `owners`.

    Raises:
        CheckpointError: pieces of the file overlap, so that no such sum exists.
    """
    budget = Counter[str]()
    for record, heading in owned:
        budget[heading] += record.stored
    members = [record for record in contents.records if isinstance(record, Member)]
    budget["padding"] += sum(member.padding for member in members)
    budget["zip bookkeeping"] += sum(m.end - m.header - m.padding - m.stored for m in members)
    if contents.archive is not None:
        first, last = contents.archive.directory
        budget["zip bookkeeping"] += last - first + contents.archive.end[1] - contents.archive.end[0]
    rest = contents.size - budget.total()
    if rest < 0:
        raise CheckpointError(f"{contents.path}: pieces of it overlap; it was changed after it was written.")
    budget[rest_heading(contents.format)] += rest
    return {heading: count for heading, count in budget.most_common() if count}


def rest_heading(format: Format) -> str:
    """What the bytes between the pieces are. A zip has a directory of its pieces, and no such bytes."""
    return _REST.get(format, "not accounted for")


_REST = {
    Format.LEGACY: "bookkeeping",
    Format.SHARDED: "zip bookkeeping",
    Format.SAFETENSORS: "padding",
    Format.PICKLE: "after the pickle",
}


def _heading(contents: Contents, record: Record) -> str:
    """Where a piece belongs that no tensor refers to."""
    if any(record is pickle for pickle in contents.pickles):
        return "pickle"
    if contents.format is Format.SAFETENSORS:
        return "header"
    name = record.name.partition("/")[2]
    if name in _HOUSEKEEPING:
        return "zip bookkeeping"
    if name.startswith("data/"):
        return "storages nothing refers to"
    return "code" if contents.format is Format.TORCHSCRIPT else "other members"
