"""What differs between two checkpoints.

The directory of each file has a checksum for every storage, so which tensors changed is known without reading a
weight, in milliseconds at any size; by how much, only for those that did, when it is asked for. Two contents with the
same checksum and size are taken for the same: by chance that is wrong once in four billion. Where a file has no
checksums, bytes are compared.

    found = diff("epoch=3.ckpt", "epoch=4.ckpt")
    found.same                       # False
    found.values                     # [epoch: 3 → 4, …]
    found.changed[0].amount.max_abs  # read from the two files now
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

from mvae.checkpoint.files.source import Input, Record
from mvae.checkpoint.formats.stream import Progress, Stream, is_contiguous, joined
from mvae.checkpoint.inspection import CheckpointFile, inspect
from mvae.checkpoint.pickled.values import Tensor
from mvae.checkpoint.report.entries import TensorEntry
from mvae.checkpoint.tools.difference import Difference, TensorChange
from mvae.checkpoint.tools.prefixes import pair_by_prefix
from mvae.checkpoint.tools.value_changes import value_changes


def diff(a: Input | CheckpointFile, b: Input | CheckpointFile, progress: Progress | None = None) -> Difference:
    """Compare two checkpoints: keys, values and tensors, the optimizer's and the callbacks' too.

    Args:
        a: a path, the bytes of a file, or what `inspect` returned.
        b: another.
        progress: told how many bytes were read, now or when an amount is asked for.

    Raises:
        CheckpointError: one of them cannot be read.
    """
    left, right = (file if isinstance(file, CheckpointFile) else inspect(file) for file in (a, b))
    found = Difference(left, right)
    found.values = value_changes(left.tree, right.tree)
    pairs = _pairs(found)
    _compare(found, pairs, progress)
    found.renamed += _same_content(found)
    return found


def _pairs(found: Difference) -> list[tuple[TensorEntry, TensorEntry]]:
    """The tensors that go together: of one name, then those whose names differ in a prefix alone."""
    tensors_a, tensors_b = _whole(found.a), _whole(found.b)
    right = {entry.name: entry for entry in tensors_b}
    pairs = [(entry, right.pop(entry.name)) for entry in tensors_a if entry.name in right]
    order = {entry.name: number for number, entry in enumerate(tensors_b)}
    numbers = [order[entry.name] for entry, _ in pairs]
    found.reordered = numbers != sorted(numbers)
    taken = {entry.name for entry, _ in pairs}
    left = {entry.name: entry for entry in tensors_a if entry.name not in taken}
    for prefix_a, prefix_b, names in pair_by_prefix(list(left), list(right)):
        pairs += [(left.pop(a), right.pop(b)) for a, b in names]
        found.prefixes.append((prefix_a, prefix_b, len(names)))
    found.only_a, found.only_b = list(left.values()), list(right.values())
    return pairs


def _whole(file: CheckpointFile) -> list[TensorEntry]:
    """The tensors, without the pieces that those in a sharded folder are made of."""
    sharded = (entry.tensor for entry in file.tensors if entry.tensor.kind == "sharded")
    pieces = {id(part) for tensor in sharded for part in (tensor.parts or {}).values()}
    return [entry for entry in file.tensors if id(entry.tensor) not in pieces] if pieces else file.tensors


def _compare(found: Difference, pairs: list[tuple[TensorEntry, TensorEntry]], progress: Progress | None) -> None:
    checksums = found.a.contents.has_checksums and found.b.contents.has_checksums
    with Stream(progress) as stream_a, Stream(progress) as stream_b:
        for a, b in pairs:
            same = compare_checksums(a.tensor, b.tensor, checksums)
            found.by_checksums += bool(same)
            if same is None:
                found.by_bytes += 1
                blocks = zip_longest(_blocks(stream_a, a.tensor), _blocks(stream_b, b.tensor))
                same = all(x == y for x, y in blocks)
            if same:
                found.equal += 1
            else:
                found.changed.append(TensorChange(a.name, a.tensor, b.tensor, progress))


def compare_checksums(a: Tensor, b: Tensor, checksums: bool) -> bool | None:
    """Whether two tensors are the same, as far as can be told without reading them; None if it cannot.

    Args:
        a: a tensor of the first file.
        b: the tensor of that name in the second.
        checksums: True if both files have them.
    """
    if (a.dtype, a.shape) != (b.dtype, b.shape) or value_changes(a.attributes, b.attributes):
        return False
    if "sharded" in (a.kind, b.kind):
        return _compare_pieces(a, b, checksums)
    x, y = _record(a), _record(b)
    if x is None or y is None:  # on the meta device, or made of parts, which are listed themselves
        return x is y
    if a.numel == 0:
        return True
    if not checksums or x.crc32 is None or y.crc32 is None or _order(a) != _order(b):
        return None
    alike = (x.crc32, x.size) == (y.crc32, y.size)
    if alike and (a.stride, a.offset) == (b.stride, b.offset):
        return True
    whole = a.nbytes == x.size and b.nbytes == y.size and is_contiguous(a) and is_contiguous(b)
    return False if whole and not alike else None


def _compare_pieces(a: Tensor, b: Tensor, checksums: bool) -> bool | None:
    """The same for tensors of which at least one was saved in pieces."""
    x, y = a.parts or {}, b.parts or {}
    if x.keys() != y.keys():
        return None
    answers = [compare_checksums(x[span], y[span], checksums) for span in x]
    return None if None in answers else all(answers)


def _blocks(stream: Stream, tensor: Tensor) -> Iterator[memoryview]:
    return joined(tensor) if tensor.kind == "sharded" else stream.tensor(tensor)


def _record(tensor: Tensor) -> Record | None:
    return tensor.storage.record if tensor.storage is not None else None


def _order(tensor: Tensor) -> str:
    return tensor.storage.byteorder if tensor.storage is not None else ""


def _same_content(found: Difference) -> list[tuple[str, str]]:
    """Tensors under different names with one content, where there is no doubt which belongs to which."""
    left, right = _by_content(found.only_a), _by_content(found.only_b)
    pairs = [(a[0], right[key][0]) for key, a in left.items() if len(a) == len(right.get(key, ())) == 1]
    gone = {id(entry) for pair in pairs for entry in pair}
    found.only_a = [entry for entry in found.only_a if id(entry) not in gone]
    found.only_b = [entry for entry in found.only_b if id(entry) not in gone]
    found.equal += len(pairs)
    found.by_checksums += len(pairs)
    return [(a.name, b.name) for a, b in pairs]


def _by_content(entries: list[TensorEntry]) -> dict[Any, list[TensorEntry]]:
    found: dict[Any, list[TensorEntry]] = {}
    for entry in entries:
        tensor, record = entry.tensor, _record(entry.tensor)
        if record is not None and record.crc32 and tensor.numel > 1:
            key = (tensor.dtype, tensor.shape, tensor.stride, tensor.offset, record.crc32, record.size)
            found.setdefault(key, []).append(entry)
    return found
