"""From one file to a plain tree, for each of the formats that are one file. Nothing in it is imported or called."""

from __future__ import annotations

from typing import Any

from mvae.checkpoint.files import zip_structures as zs
from mvae.checkpoint.files.archive import Archive
from mvae.checkpoint.files.source import Record, Source
from mvae.checkpoint.formats.contents import Contents
from mvae.checkpoint.formats.detect import Format, detect
from mvae.checkpoint.formats.every_pickle import MAX_PICKLES, every_pickle, is_plausible, try_pickle
from mvae.checkpoint.formats.foreign import foreign_zip
from mvae.checkpoint.pickled import dtypes
from mvae.checkpoint.pickled.limits import DEFAULT_LIMITS, Limits, collector_held_off
from mvae.checkpoint.pickled.machine import Trace, Unpickler
from mvae.checkpoint.pickled.values import Global, Storage
from mvae.errors import SALVAGE, CheckpointError, UnsupportedFileError

_MAGIC = 0x1950A86A20F9469CFC6C
_LAST_VERSION = 10
"""`kMaxSupportedFileFormatVersion` in `caffe2/serialize/versions.h`."""


@collector_held_off()
def read_source(source: Source, limits: Limits = DEFAULT_LIMITS, contents: Contents | None = None) -> Contents:
    """`read`, for a file that is open already.

    Args:
        source: the file.
        limits: how much a pickle may cost before it is refused.
        contents: filled in and returned; if there is an error, it has what came before that.
    """
    return _read(source, limits, contents or Contents(source.name, source.size, Format.PICKLE), 0)


def _read(source: Source, limits: Limits, contents: Contents, level: int) -> Contents:
    """The same for a file that stands inside others, `level` of them."""
    readers = {
        Format.ZIP: _read_zip,
        Format.LEGACY: _read_legacy,
        Format.SAFETENSORS: _read_safetensors,
        Format.PICKLE: _read_pickle,
    }
    with every_pickle(source, contents, limits, level, _read):
        try:
            contents.format = detect(source)
        except CheckpointError:
            if not try_pickle(source, contents, limits):
                raise
            contents.format = Format.PICKLE
        readers[contents.format](source, contents, limits)
    return contents


def _read_safetensors(source: Source, contents: Contents, _: Limits) -> Contents:
    from mvae.checkpoint.formats.safetensors import read_safetensors  # here, as most files are none

    return read_safetensors(source, contents)


def make_storage(pid: Any, known: dict[str, Storage]) -> Storage:
    """The storage a persistent id stands for: `("storage", torch.FloatStorage, key, location, numel)`.

    The same key gives the same storage, as in PyTorch.

    Raises:
        CheckpointError: not the id of a storage.
    """
    if type(pid) is not tuple or len(pid) not in (5, 6) or pid[0] != "storage":
        raise CheckpointError(f"the pickle refers to {str(pid)[:80]}, which is not a storage. PyTorch writes no other.")
    _, kind, key, location, numel = pid[:5]
    dtype = dtypes.STORAGE.get(kind.name) if type(kind) is Global else None
    if dtype is None and type(kind) is Global and kind.module == "torch" and kind.name in dtypes.ITEMSIZE:
        dtype = kind.name
    if dtype is None or type(numel) is not int or not 0 <= numel < 2**62 or type(key) not in (str, int):
        raise CheckpointError(f"the pickle refers to a storage in a way PyTorch does not: {str(pid)[:120]}.")
    key = str(key)
    found = known.get(key)
    if found is None:
        found = known[key] = Storage(key, dtype, numel, location if isinstance(location, str) else "cpu")
    return found


# --- the zip, since PyTorch 1.6


def _read_zip(source: Source, contents: Contents, limits: Limits) -> Contents:
    if source.name.endswith(".distcp"):
        raise UnsupportedFileError(f"{source.name} is one piece of a sharded checkpoint: inspect the folder it is in.")
    contents.archive = archive = Archive(source)
    pickle = archive.get("data.pkl")
    if pickle is None:
        raise UnsupportedFileError(f"{source.name} is not a checkpoint: it is {foreign_zip(archive)}.")
    _check_root(archive)
    if archive.root + "constants.pkl" in archive.members:
        contents.format = Format.TORCHSCRIPT
    contents.records = [*archive.in_order]
    contents.pickles = [pickle]
    storages = contents.storages
    unpickler = Unpickler(pickle.view(), lambda pid: make_storage(pid, storages), limits=limits)
    contents.trace = unpickler.trace
    contents.tree = unpickler.load()
    contents.main_end = unpickler.position
    _find_storages(archive, storages)
    return contents


def _check_root(archive: Archive) -> None:
    """Refuse what PyTorch's reader refuses: a version that it does not know, members in another folder."""
    name = archive.source.name
    version = archive.small(".data/version" if archive.get(".data/version") else "version")
    if version is None or not version.strip().isdigit() or not 1 <= int(version) <= _LAST_VERSION:
        says = "does not say" if version is None else f"says {version[:20]!r}"
        raise CheckpointError(
            f"{name} {says} in which version of PyTorch's format it is; 1 to {_LAST_VERSION} are read, here and there."
        )
    for member in archive.members:
        if not member.startswith(archive.root):
            raise CheckpointError(
                f"{name} has '{member}' beside the folder '{archive.root}'. PyTorch writes one folder and reads no "
                "file with two."
            )


def _find_storages(archive: Archive, storages: dict[str, Storage]) -> None:
    """Give each storage its zip member."""
    order = _byteorder(archive)
    for key, storage in storages.items():
        if storage.location == "meta":
            continue
        record = archive.get(f"data/{key}")
        if record is None:
            raise CheckpointError(f"the pickle refers to 'data/{key}', and the zip has no such member.")
        if record.size != storage.nbytes:
            raise CheckpointError(
                f"'data/{key}' is {record.size:,} bytes; its {storage.numel:,} elements of {storage.dtype} "
                f"are {storage.nbytes:,}. The file was changed or is damaged."
            )
        storage.record = record
        storage.byteorder = order


def _byteorder(archive: Archive) -> str:
    """`little` or `big`: the order of the bytes in every storage. Files older than PyTorch 2.1 do not say."""
    content = archive.small("byteorder")
    if content not in (None, b"little", b"big"):
        raise CheckpointError(f"the member 'byteorder' holds {content[:20]!r}; 'little' or 'big' was expected.")
    return "big" if content == b"big" else "little"


# --- before PyTorch 1.6


def _read_legacy(source: Source, contents: Contents, limits: Limits) -> Contents:
    """Five pickles (magic number, version, machine, object, storage keys), then per key its length and bytes."""
    storages = contents.storages
    contents.trace = trace = Trace()

    def persistent(pid: Any) -> Any:
        if isinstance(pid, tuple) and len(pid) == 4 and pid[0] == "module":
            trace.named_classes += 1
            return pid[1]  # ("module", class, file it came from, its source code)
        if isinstance(pid, tuple) and len(pid) == 6 and pid[5] is not None:
            raise CheckpointError("a storage that is a view of another, as PyTorch 0.3 and older wrote, is not read.")
        return make_storage(pid, storages)

    position = 0
    values = []
    for name in ("magic number", "protocol version", "system information", "object", "storage keys"):
        unpickler = Unpickler(source.data, persistent, position, limits.less(*trace.spent))
        try:
            values.append(unpickler.load())
        finally:
            trace.add(unpickler.trace)
        contents.records.append(Record(source, name, position, unpickler.position - position))
        position = unpickler.position
    if values[0] != _MAGIC or values[1] != 1001:
        raise CheckpointError(f"{source.name} starts like an old PyTorch file, but its version is {values[1]!r}.")
    contents.pickles = list(contents.records)
    contents.tree = values[3]
    little = not isinstance(values[2], dict) or values[2].get("little_endian", True)
    _place_storages(source, contents, values[4], position, "little" if little else "big")
    return contents


def _place_storages(source: Source, contents: Contents, keys: Any, position: int, order: str) -> None:
    if not isinstance(keys, list):
        raise CheckpointError("the list of storages in this old file is damaged.")
    for key in map(str, keys):
        storage = contents.storages.get(key)
        if storage is None or storage.record is not None:
            raise CheckpointError(
                f"the file lists storage '{key[:40]}', which its pickle does not use, or lists it twice."
            )
        count = int.from_bytes(source.data[position : position + 8], "little")
        left = source.size - position - 8
        if count != storage.numel or storage.nbytes > left:
            raise CheckpointError(
                f"storage '{key}' should be {storage.nbytes:,} bytes and {max(left, 0):,} are left: the file "
                f"is cut off or damaged.{SALVAGE}"
            )
        storage.record = Record(source, f"storage {key}", position + 8, storage.nbytes)
        storage.byteorder = order
        contents.records.append(storage.record)
        position += 8 + storage.nbytes


# --- the others


def _read_pickle(source: Source, contents: Contents, limits: Limits) -> Contents:
    """One pickle after the other: `torch.load`, for one, goes on after the first if that is the right number."""
    contents.trace, position = Trace(), 0
    values: list[Any] = []
    while position < source.size and len(values) <= MAX_PICKLES:
        unpickler = Unpickler(source.data, None, position, limits.less(*contents.trace.spent))
        try:
            values.append(unpickler.load())
        except CheckpointError as error:
            if not values:
                contents.trace = unpickler.trace
                if b"joblib.numpy_pickle" in bytes(source.data[: 1 << 16]):
                    raise UnsupportedFileError(
                        f"{source.name} is a file of joblib, with arrays between the instructions of its pickle. Load "
                        "it with `joblib.load`, which runs what is in it."
                    ) from None
                raise CheckpointError(
                    f"{source.name} starts like a pickle and is not a checkpoint that can be read: {error}"
                ) from None
            if unpickler.trace.globals and is_plausible(unpickler.trace):
                contents.trace.add(unpickler.trace)
                contents.trace.unseen.append(f"all that follows byte {position:,}: {error}")
            break
        contents.trace.add(unpickler.trace)
        contents.records.append(Record(source, "pickle", position, unpickler.position - position))
        position = unpickler.position
    else:
        if position < source.size:
            contents.trace.unseen.append(f"what follows the first {MAX_PICKLES} pickles.")
    contents.tree = values if len(values) > 1 else values[0]
    contents.pickles = list(contents.records)
    if zs.find_last(source.data, zs.END) >= position:
        raise CheckpointError(
            f"{source.name} is a pickle with a zip file behind it: PyTorch would read the one, and a program that "
            "looks for a zip the other. Do not load it."
        )
    return contents
