"""A folder that `torch.distributed.checkpoint` wrote: several processes, each with its own file of pieces.

`.metadata` is a pickle that says what there is: every value's name, every tensor's size, and for each piece the file,
the offset and the length where it lies. A piece is a small `torch.save` zip of its own, one after the other in a
`.distcp` file. Lightning adds `meta.pt`, an ordinary checkpoint with everything that is not sharded.

Source: `torch/distributed/checkpoint/metadata.py` and `filesystem.py`.
"""

from __future__ import annotations

import os
from typing import Any

from mvae.checkpoint.files.source import Record, Source
from mvae.checkpoint.formats.contents import Contents
from mvae.checkpoint.formats.detect import Format
from mvae.checkpoint.formats.every_pickle import what_runs
from mvae.checkpoint.formats.one_file import read_source
from mvae.checkpoint.pickled.limits import Limits
from mvae.checkpoint.pickled.machine import Trace
from mvae.checkpoint.pickled.rebuild import dtype_name
from mvae.checkpoint.pickled.values import Object, Tensor
from mvae.errors import CheckpointError

METADATA, _LIGHTNING = ".metadata", "meta.pt"


def read_sharded(path: str, names: list[str], limits: Limits) -> Contents:
    """Read a sharded checkpoint: its tree, with every tensor put together from its pieces.

    A tensor in one piece is an ordinary `Tensor`; one in several has the kind `sharded`, and the pieces as its
    `parts`, each named by the span it covers, such as `[0:500, 0:64]`.

    Args:
        path: the folder.
        names: of the files in it.
        limits: what its pickles may cost.

    Raises:
        CheckpointError: a piece is missing or damaged.
    """
    sources = {name: Source.open(os.path.join(path, name)) for name in names}
    contents = Contents(path, sum(source.size for source in sources.values()), Format.SHARDED)
    contents.trace = Trace()
    contents.tree = {}
    directory = _read_inside(contents, sources[METADATA], limits)
    try:
        _read_pieces(contents, sources, directory, limits)
    except CheckpointError as error:
        raise CheckpointError(f"{error}{what_runs(contents)}") from None
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: '.metadata' is not what PyTorch writes ({error!r}).{what_runs(contents)}"
        ) from None
    if _LIGHTNING in sources:
        rest = _read_inside(contents, sources[_LIGHTNING], limits)
        contents.tree = {**rest, **contents.tree} if isinstance(rest, dict) else contents.tree
    return contents


def _read_inside(contents: Contents, source: Source, limits: Limits) -> Any:
    """Read a file of the folder; what it would import counts for the whole."""
    inner = read_source(source, _left(contents, limits))
    _add_trace(contents, inner)
    for key, storage in inner.storages.items():
        contents.storages[f"{os.path.basename(source.name)}/{key}"] = storage
    contents.records += inner.records
    contents.pickles += inner.pickles
    return inner.tree


def _add_trace(contents: Contents, inner: Contents) -> None:
    if contents.trace is not None and inner.trace is not None:
        contents.trace.add(inner.trace)
    contents.beside |= {f"{inner.path}: {name}": trace for name, trace in inner.beside.items()}


def _left(contents: Contents, limits: Limits) -> Limits:
    """What all the pickles of a folder together may cost, less what those before have."""
    return limits.less(*contents.trace.spent) if contents.trace else limits


def _read_pieces(contents: Contents, sources: dict[str, Source], directory: Object, limits: Limits) -> None:
    pieces: dict[str, list[tuple[Object, Any]]] = {}
    for index, where in directory["storage_data"].items():
        name = index["fqn"]
        if not isinstance(name, str):
            raise TypeError("a name that is not text")
        pieces.setdefault(name, []).append((index, _piece(contents, sources, where, limits)))
    paths = directory.get("planner_data")
    for name, described in directory["state_dict_metadata"].items():
        if name not in pieces:
            raise CheckpointError(f"{contents.path}: '{name}' is listed in '.metadata' and none of its bytes are.")
        value = _assemble(name, described, pieces[name])
        path = paths.get(name) if isinstance(paths, dict) else None
        _put(contents.tree, path if isinstance(path, tuple) and path else (name,), value)


def _piece(contents: Contents, sources: dict[str, Source], where: Object, limits: Limits) -> Any:
    """The value in one piece; its storages are given their place in the `.distcp` file."""
    name, offset, length = where["relative_path"], where["offset"], where["length"]
    if name not in sources:
        raise CheckpointError(
            f"{contents.path}: '.metadata' refers to the file '{str(name)[:60]}', which is not there."
        )
    outer = sources[name]
    if not 0 <= offset <= offset + length <= outer.size:
        raise CheckpointError(f"{outer.name} is {outer.size:,} bytes and should reach to {offset + length:,}: cut off.")
    inner = read_source(
        Source(f"{outer.name}, byte {offset:,}", outer.data[offset : offset + length]), _left(contents, limits)
    )
    _add_trace(contents, inner)
    for key, storage in inner.storages.items():
        if storage.record is not None:
            old = storage.record
            storage.record = Record(outer, old.name, offset + old.offset, old.size, old.crc32, old.stored, old.method)
            contents.records.append(storage.record)
        contents.storages[f"{name}@{offset}/{key}"] = storage
    return inner.tree


def _assemble(name: str, described: Object, pieces: list[tuple[Object, Any]]) -> Any:
    if "size" not in described.attributes:
        return pieces[0][1]  # not a tensor: BytesStorageMetadata
    if not all(isinstance(part, Tensor) for _, part in pieces):
        raise CheckpointError(f"'{name}' is listed as a tensor and a piece of it is something else.")
    if len(pieces) == 1 and pieces[0][1].shape == described["size"]:
        return pieces[0][1]
    tensor = Tensor(dtype_name(described["properties"].state[0]), described["size"], (), 0, None, kind="sharded")
    tensor.parts = {}
    for index, part in pieces:
        start = index["offset"] or (0,) * len(part.shape)
        spans = (f"{first}:{first + length}" for first, length in zip(start, part.shape, strict=True))
        tensor.parts[f"[{', '.join(spans)}]"] = part
    return tensor


def _put(tree: Any, path: tuple[Any, ...], value: Any) -> None:
    """Set a value deep in nested dicts; positions in lists become integer keys, as the file has them."""
    for step in path[:-1]:
        tree = tree.setdefault(step, {})
    tree[path[-1]] = value
