"""Is a checkpoint whole? Its structure, and every checksum in it.

`torch.load` never looks at the checksums that `torch.save` writes: a flipped bit in a weight loads, wrong, in silence.
Here the whole file is read once, in blocks, at the speed of reading and a CRC-32.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from mvae.checkpoint.files import zip_structures as zs
from mvae.checkpoint.files.archive import Archive, Member
from mvae.checkpoint.files.source import Input, Record, Source
from mvae.checkpoint.formats.detect import Format, detect
from mvae.checkpoint.formats.folders import is_checkpoint_folder
from mvae.checkpoint.formats.stream import Progress, Stream
from mvae.checkpoint.inspection import CheckpointFile, inspect
from mvae.checkpoint.report.byte_budget import rest_heading
from mvae.errors import CheckpointError, UnsupportedFileError
from mvae.text import Result, many, printable, size

_SHOWN = 20
"""Damaged pieces that are listed, and tensors of each."""


@dataclass(frozen=True)
class Damage:
    """Something that is not as it was written.

    Attributes:
        where: the piece of the file, such as `archive/data/3`, or `the file` for its structure.
        what: one sentence.
        tensors: names of the tensors whose values are wrong; empty if it is none, or if that cannot be told.
    """

    where: str
    what: str
    tensors: list[str] = field(default_factory=list)


@dataclass
class Verification(Result):
    """What `verify` found.

    Attributes:
        path, size, format: of the file.
        checksums: True if the file has any.
        checked: pieces that were compared with their checksums.
        tensors: how many there are in the file; 0 if it could not be read.
        damage: empty if all is well.
        notes: what could not be checked, one sentence each.
    """

    also = ("ok",)

    path: str
    size: int
    format: str
    checksums: bool = False
    checked: int = 0
    tensors: int = 0
    damage: list[Damage] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """True if nothing is wrong, as far as the file allows to say."""
        return not self.damage

    def __str__(self) -> str:
        name = printable(self.path)
        held = f"{many(self.tensors, 'tensor')}, {size(self.size)}"
        if self.damage:
            lines = [f"{name}: damaged"]
        elif self.checksums:
            lines = [f"{name}: all {many(self.checked, 'checksum')} right; {held}"]
        else:
            lines = [f"{name}: sound, but without checksums; {held}"]
        for damage in self.damage[:_SHOWN]:
            lines.append(f"  {printable(damage.where)}: {damage.what}")
            lines += [f"    {printable(tensor)}" for tensor in damage.tensors[:_SHOWN]]
            if len(damage.tensors) > _SHOWN:
                lines.append(f"    … {len(damage.tensors) - _SHOWN:,} more")
        if len(self.damage) > _SHOWN:
            lines.append(f"  … {len(self.damage) - _SHOWN:,} more; all of them with --json")
        return "\n".join(lines + [f"  {note}" for note in self.notes])


def verify(path: Input, progress: Progress | None = None) -> Verification:
    """Check the structure of a checkpoint and every checksum in it.

    Args:
        path: a file, the folder of a sharded checkpoint, or the bytes of a file.
        progress: told how many bytes were read.

    Raises:
        CheckpointError: no such file, or one that is no checkpoint at all. Damage is no error: it is the answer.
    """
    try:
        file = inspect(path)
    except UnsupportedFileError:
        raise  # which says nothing about damage
    except CheckpointError as error:
        return _broken(path, error, progress)
    found = Verification(file.path, file.size, str(file.format), tensors=len(file.tensors))
    if file.contents.archive is not None:
        _check_headers(found, file.contents.archive)
    _check_records(found, file.contents.records, _names_by_record(file), progress)
    if not found.checksums:
        why = _NO_CHECKSUMS.get(file.format, "It was saved without checksums")
        found.notes.append(f"{why}: changed bytes do not show.")
    _check_gaps(found, file)
    return found


_NO_CHECKSUMS = {
    Format.LEGACY: "PyTorch's old format has no checksums",
    Format.PICKLE: "A plain pickle has no checksums",
    Format.SAFETENSORS: "safetensors has no checksums",
}


def _broken(path: Input, error: CheckpointError, progress: Progress | None) -> Verification:
    """A file that cannot be read as a whole: if it is a zip with its directory, its checksums say what is damaged.

    Raises:
        CheckpointError: it is no checkpoint, so there is nothing to say about damage.
    """
    if isinstance(path, (str, os.PathLike)) and is_checkpoint_folder(os.fspath(path)):
        folder = os.fspath(path)
        return Verification(folder, 0, "folder", damage=[Damage("the folder", str(error))])
    source = Source.open(path)  # raises again if it is not there, or a folder
    kind = detect(source)  # raises again if it is something else altogether
    found = Verification(source.name, source.size, str(kind))
    if kind is Format.ZIP:
        try:
            archive = Archive(source)
        except CheckpointError:
            pass
        else:
            if archive.get("data.pkl") is None:
                raise error
            _check_records(found, list(archive.members.values()), {}, progress)
    found.damage.insert(0, Damage("the file", str(error)))
    return found


def _names_by_record(file: CheckpointFile) -> dict[int, list[str]]:
    """The names of the tensors whose values lie in a record, by its identity."""
    names: dict[int, list[str]] = {}
    for entry in file.tensors:
        storage = entry.tensor.storage
        if storage is not None and storage.record is not None:
            names.setdefault(id(storage.record), []).append(entry.name)
    return names


def _check_records(
    found: Verification, records: list[Record], names: dict[int, list[str]], progress: Progress | None
) -> None:
    found.checksums = any(record.crc32 for record in records)
    if not found.checksums:
        return
    checked = [record for record in records if record.crc32 is not None]
    with Stream(progress) as stream:
        for record in checked:
            what = _difference(stream, record)
            if what:
                found.damage.append(Damage(record.name, what, names.get(id(record), [])))
    found.checked = len(checked)
    bare = len(records) - len(checked)
    if bare:
        why = (
            "a folder has its `.metadata` outside of its zip files"
            if found.format == Format.SHARDED.value
            else "PyTorch writes none under `skip_data`, which leaves room for weights and does not write them"
        )
        found.notes.append(f"{many(bare, 'piece')} without a checksum, where changed bytes do not show: {why}.")


def _difference(stream: Stream, record: Record) -> str:
    """What is wrong with a record; empty if nothing is."""
    try:
        crc32 = stream.crc32(record)
    except CheckpointError as error:
        return str(error)
    if crc32 == record.crc32:
        return ""
    return (
        f"its {record.size:,} bytes are not those that were written (CRC-32 {crc32:08x}, should be {record.crc32:08x})."
    )


def _check_headers(found: Verification, archive: Archive) -> None:
    """What a member's own header says must be what the directory says. PyTorch leaves it out, other zips do not."""
    for member in archive.members.values():
        if member.flags & 0x8:
            continue
        if not _header_agrees(archive.source.data, member):
            found.damage.append(Damage(member.name, "its header and the zip's directory contradict each other."))


def _header_agrees(data: memoryview, member: Member) -> bool:
    """Whether a member's own header has the directory's CRC-32 and sizes: as they are, capped, or in a zip64 field."""
    local = zs.LOCAL.read(data, member.header)
    assert local is not None  # read as the archive was opened
    if local.crc32 != (member.crc32 or 0):
        return False
    extra = member.header + zs.LOCAL.size + local.name_length
    wide = zs.read_sizes64(bytes(data[extra : extra + local.extra_length]), local.size, local.stored, 0)
    capped = (min(member.size, zs.MAX32), min(member.stored, zs.MAX32))
    return (local.size, local.stored) == capped or (wide is not None and wide[:2] == (member.size, member.stored))


def _check_gaps(found: Verification, file: CheckpointFile) -> None:
    """Bytes that belong to nothing: PyTorch and safetensors leave none."""
    try:
        budget = file.bytes
    except CheckpointError as error:
        found.damage.append(Damage("the file", str(error)))
        return
    # what is between the files of a folder, and after a pickle's end, is no damage
    left = 0 if file.format in (Format.SHARDED, Format.PICKLE) else budget.get(rest_heading(file.format), 0)
    if file.format is Format.LEGACY:  # in front of each storage stands its length
        left -= 8 * sum(storage.record is not None for storage in file.contents.storages.values())
    if left:
        found.damage.append(
            Damage("the file", f"{many(left, 'byte')} belonging to nothing: it was cut, joined or changed.")
        )
