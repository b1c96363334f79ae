"""What a cut-off or damaged file still holds.

PyTorch writes `data.pkl`, which says what every tensor is, first, then one zip member per storage, then the directory.
A file that was cut has no directory, but every member has a header of its own, and what is needed besides, its size,
follows from the pickle. So the headers are followed one by one; where one is missing, the next is looked for.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field

from mvae.checkpoint.files.archive import Archive
from mvae.checkpoint.files.source import Record, Source
from mvae.checkpoint.formats.broken_zip import Headers, Member, directory_records, inner_name, read_header
from mvae.checkpoint.formats.contents import Contents
from mvae.checkpoint.formats.detect import Format, detect
from mvae.checkpoint.formats.one_file import make_storage, read_source
from mvae.checkpoint.formats.stream import Progress, Stream
from mvae.checkpoint.pickled.machine import Unpickler
from mvae.checkpoint.pickled.values import Storage
from mvae.errors import SALVAGE, CheckpointError, NothingToSaveError

MISSING = "not in what is left of the file"


@dataclass
class Remains:
    """What was found.

    Attributes:
        contents: the tree, and those storages whose bytes are there and right.
        candidates: storage key → the places where its bytes may be.
        lost: storage key, or tensor name in safetensors → why its bytes are not to be had.
        unchecked: keys of storages that are all there and have no checksum to compare with.
        notes: what is wrong with the file as a whole, one sentence each.
    """

    contents: Contents
    candidates: dict[str, list[Record]] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)
    unchecked: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def find_remains(source: Source, progress: Progress | None = None) -> Remains:
    """Find all that is left in a file, and compare it with the checksums that are left.

    Raises:
        CheckpointError: nothing is left that could be made sense of, or it is no checkpoint.
    """
    kind = _detect(source)
    remains = Remains(Contents(source.name, source.size, kind))
    with Stream(progress) as stream:
        if kind is Format.ZIP:
            _from_zip(source, remains, stream)
        else:
            _from_other(source, remains)
        _choose(remains, stream)
    return remains


def _detect(source: Source) -> Format:
    try:
        return detect(source)
    except CheckpointError:
        if any(inner_name(record.name) == "data.pkl" for record in directory_records(source)):
            return Format.ZIP  # its first bytes are damaged
        raise


def nothing(why: str) -> NothingToSaveError:
    """The error that says so."""
    return NothingToSaveError(f"nothing to save: {why}")


# --- a zip


def _from_zip(source: Source, remains: Remains, stream: Stream) -> None:
    try:
        archive = Archive(source)
    except CheckpointError as error:
        remains.notes.append(str(error).replace(SALVAGE, ""))
        _BrokenZip(source, remains, stream).read()
        return
    pickle, order = archive.get("data.pkl"), archive.get("byteorder")
    if pickle is None:
        raise CheckpointError(f"{source.name} is a zip file without a 'data.pkl', so not a checkpoint.")
    _unpickle(remains, pickle)
    remains.contents.pickles = [pickle]
    for key, storage in remains.contents.storages.items():
        member = archive.get(f"data/{key}")
        remains.candidates[key] = [member] if member is not None else []
        storage.byteorder = "big" if order is not None and order.size == 3 else "little"


def _unpickle(remains: Remains, record: Record) -> int:
    """Read the tree from `data.pkl`; returns the bytes the pickle takes. Its record may reach past its end."""
    contents = remains.contents
    contents.storages.clear()
    try:
        unpickler = Unpickler(record.view(), lambda pid: make_storage(pid, contents.storages))
        contents.tree = unpickler.load()
    except CheckpointError as error:
        raise nothing(f"'data.pkl', which says what every tensor is, cannot be read: {error}") from None
    contents.trace = unpickler.trace
    return unpickler.position


class _BrokenZip:
    """Reads a zip that contradicts itself, or has no directory."""

    def __init__(self, source: Source, remains: Remains, stream: Stream) -> None:
        self.source = source
        self.remains = remains
        self.stream = stream
        self.listed = directory_records(source)
        self.pickle_size: int | None = None
        self.order = "little"
        self.first = header.name if (header := read_header(source, 0)) is not None else ""
        self.within: list[str] = []

    def read(self) -> None:
        """Fill in the tree, and the candidates for every storage.

        Raises:
            CheckpointError: the pickle is not in what is left.
        """
        self._pickle_by_directory()
        members = list(Headers(self.source, self.stream).members(self._size_of))
        self._pickle_by_header(members)
        contents = self.remains.contents
        for member in members:
            if member.problem and member.name.startswith("data/"):
                self.remains.lost[member.name.removeprefix("data/")] = member.problem
        listed = [Member(inner_name(record.name), record, "", True) for record in self.listed]
        for found in (listed, members):
            for key, record in in_order(found, list(contents.storages)):
                self.remains.candidates.setdefault(key, []).append(record)
        for storage in contents.storages.values():
            storage.byteorder = self.order

    def _pickle_by_directory(self) -> None:
        """Read `data.pkl` where the directory says it is, if its checksum is right."""
        record = next((record for record in self.listed if inner_name(record.name) == "data.pkl"), None)
        if record is not None and record.crc32 and self.stream.crc32(record) == record.crc32:
            self.pickle_size = _unpickle(self.remains, record)
            self.remains.contents.pickles = [record]

    def _pickle_by_header(self, members: list[Member]) -> None:
        if self.remains.contents.pickles:
            return
        pickle = next((member for member in members if member.name == "data.pkl"), None)
        if pickle is None and self.within:
            raise nothing(
                f"{self.source.name} is a zip of other files, which begins with '{self.first}', and not a checkpoint. "
                "There are checkpoints in it: unpack what is left (`bsdtar -xf` needs no directory), and salvage each."
            )
        if pickle is None:
            raise nothing(f"{self.source.name} does not hold 'data.pkl', which says what every tensor is.")
        if pickle.record is None:
            raise nothing(f"'data.pkl', which says what every tensor is, is {pickle.problem}.")
        self.remains.contents.pickles = [pickle.record]

    def _is_within(self, name: str) -> bool:
        """True for a member of a zip inside this one: PyTorch puts all into one folder, the pickle first."""
        if inner_name(self.first) == "data.pkl" or not self.first:
            return False
        return "/" not in self.first or self.first.partition("/")[0] != name.partition("/")[0]

    def _size_of(self, name: str, rest: Record) -> int | None:
        """The size of a member, which its header leaves open."""
        if name == "data.pkl":
            if self._is_within(rest.name):
                self.within.append(rest.name)
                return None
            if self.pickle_size is None:
                self.pickle_size = _unpickle(self.remains, rest)
            return self.pickle_size
        if name == "byteorder":
            raw = bytes(rest.view()[:7])
            self.order = "big" if raw[:3] == b"big" or raw[3:] == b"PK\7\b" else "little"  # either may be damaged
        storage = self.remains.contents.storages.get(name.removeprefix("data/"))
        return storage.nbytes if storage is not None and name.startswith("data/") else None


def in_order(members: list[Member], keys: list[str]) -> list[tuple[str, Record]]:
    """Storage key → record, for those members whose names can be relied on.

    A flipped bit may turn the name `data/2` into `data/3`, and no checksum covers a name. But PyTorch writes storages
    in the order of the pickle (until 2.0, in the order of the alphabet), so of members that follow each other without
    a gap, the names follow each other too; one that does not is left out.
    """
    found = [member for member in members if member.record is not None and member.name.startswith("data/")]
    runs: list[list[Member]] = []
    for member in found:
        if not runs or not member.follows:
            runs.append([])
        runs[-1].append(member)
    orders = [_agreeing(runs, {key: number for number, key in enumerate(order)}) for order in (keys, sorted(keys))]
    best = max(orders, key=len)
    trusted = best if 2 * len(best) >= len(found) else found  # else it is not PyTorch that wrote the file
    return [(m.name.removeprefix("data/"), m.record) for m in trusted if m.record is not None]


def _agreeing(runs: list[list[Member]], numbers: dict[str, int]) -> list[Member]:
    """Of each run, the members whose names agree with those of most others about where the run starts."""
    kept = []
    for run in runs:
        starts = [numbers.get(member.name.removeprefix("data/"), -1) - place for place, member in enumerate(run)]
        (start, votes), *others = Counter(starts).most_common(2)
        if not others or others[0][1] < votes:
            kept += [member for member, begins in zip(run, starts, strict=True) if begins == start >= 0]
    return kept


# --- the others


def _from_other(source: Source, remains: Remains) -> None:
    """Formats that are read from the beginning to the end: what came before the break."""
    contents = remains.contents
    try:
        read_source(source, contents=contents)
    except CheckpointError as error:
        if contents.tree is None:
            raise nothing(str(error).replace(SALVAGE, "")) from None
        remains.notes.append(str(error).replace(SALVAGE, ""))
    if contents.format is Format.SAFETENSORS:
        names = json.loads(bytes(source.data[8 : contents.records[0].size]))
        missing = [name for name in names if name != "__metadata__" and name not in contents.tree]
        remains.lost.update(dict.fromkeys(missing, MISSING))
    for key, storage in contents.storages.items():
        remains.candidates[key] = [storage.record] if storage.record is not None else []


# --- what is right


def _choose(remains: Remains, stream: Stream) -> None:
    """Give each storage the first candidate that agrees with its checksum.

    Raises:
        CheckpointError: the pickle does not agree with its own.
    """
    contents = remains.contents
    records = [*contents.pickles, *(record for found in remains.candidates.values() for record in found)]
    contents.records = records
    has_checksums = any(record.crc32 for record in records)
    for pickle in contents.pickles:
        if pickle.crc32 is None or not has_checksums:
            remains.notes.append(f"'{pickle.name}' has no checksum: nothing says that names and values are right.")
        elif stream.crc32(pickle) != pickle.crc32:
            raise nothing(f"'{pickle.name}', which says what every tensor is, is damaged: its checksum is wrong.")
    for key, storage in contents.storages.items():
        storage.record = None
        if storage.location == "meta":
            continue
        for record in remains.candidates.get(key, []):
            problem = _problem(stream, record, storage, has_checksums)
            if not problem:
                storage.record = record
                remains.lost.pop(key, None)
                if record.crc32 is None or not has_checksums:
                    remains.unchecked.append(key)
                break
            remains.lost[key] = problem
        if storage.record is None:
            remains.lost.setdefault(key, MISSING)


def _problem(stream: Stream, record: Record, storage: Storage, has_checksums: bool) -> str:
    """What is wrong with the bytes of a storage; empty if nothing is, as far as can be told."""
    if record.size != storage.nbytes:
        return f"should be {storage.nbytes:,} bytes and is {record.size:,}"
    if record.crc32 is None or not has_checksums:
        return ""
    try:
        return "" if stream.crc32(record) == record.crc32 else "damaged: its checksum is wrong"
    except CheckpointError as error:
        return f"damaged: {error}"
