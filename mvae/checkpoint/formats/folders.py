"""A checkpoint that is a folder: which kind, and how its files become one tree.

Read are those of `torch.distributed.checkpoint`, and a model that Hugging Face wrote as several safetensors files. The
others are named, with what makes one file of them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable

from mvae.checkpoint.files.source import Record, Source
from mvae.checkpoint.formats.contents import Contents
from mvae.checkpoint.formats.detect import Format
from mvae.checkpoint.formats.safetensors import read_safetensors
from mvae.checkpoint.formats.sharded import METADATA, read_sharded
from mvae.checkpoint.pickled.limits import Limits
from mvae.errors import CheckpointError, UnsupportedFileError

_INDEX = ".safetensors.index.json"
_SINGLE = (".ckpt", ".pt", ".pth", ".safetensors", ".bin")
_MAX_INDEX = 100_000_000


def read_folder(path: str, limits: Limits) -> Contents:
    """Read a checkpoint that is a folder.

    Raises:
        CheckpointError: a file of it is missing or damaged.
        UnsupportedFileError: it is a folder of another kind; the message says which, and what to do.
    """
    names = _files(path)
    if METADATA in names:
        return read_sharded(path, names, limits)
    index = next((name for name in names if name.endswith(_INDEX)), None)
    if index is not None:
        return _read_index(path, index)
    raise UnsupportedFileError(f"{path} {_what_it_is(path, names)}.")


def is_checkpoint_folder(path: str) -> bool:
    """True for a folder of a kind that is read, whole or not."""
    names = _files(path) if os.path.isdir(path) else []
    return METADATA in names or any(name.endswith(_INDEX) for name in names)


def _files(path: str) -> list[str]:
    return sorted(name for name in os.listdir(path) if os.path.isfile(os.path.join(path, name)))


# --- Hugging Face: an index that says in which safetensors file each tensor is


def _read_index(path: str, index: str) -> Contents:
    source = Source.open(os.path.join(path, index))
    where = _weight_map(source)
    contents = Contents(path, source.size, Format.SAFETENSORS, tree={})
    contents.records.append(Record(source, "index", 0, source.size))
    for name in sorted(set(where.values())):
        _add_file(contents, path, name, where)
    return contents


def _weight_map(source: Source) -> dict[str, str]:
    """Name of a tensor → name of a file in the same folder."""
    if source.size > _MAX_INDEX:
        raise CheckpointError(f"{source.name} is {source.size:,} bytes; at most {_MAX_INDEX:,} are read of an index.")
    try:
        found = json.loads(bytes(source.data))["weight_map"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise CheckpointError(f"{source.name} is not the index that Hugging Face writes: no 'weight_map'.") from None
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found.values()):
        raise CheckpointError(f"{source.name}: its 'weight_map' does not say for each tensor in which file it is.")
    for name in found.values():
        if os.path.basename(name) != name or name in ("", ".", ".."):
            raise CheckpointError(f"{source.name} refers to '{name[:60]}', outside its folder. Do not load it.")
    return found


def _add_file(contents: Contents, path: str, name: str, where: dict[str, str]) -> None:
    full = os.path.join(path, name)
    if not os.path.isfile(full):
        raise CheckpointError(f"{path}: the index refers to the file '{name}', which is not there.")
    source = Source.open(full)
    inner = read_safetensors(source, Contents(full, source.size, Format.SAFETENSORS))
    wanted = {tensor for tensor, file in where.items() if file == name}
    if wanted != set(inner.tree):
        odd = next(iter(wanted ^ set(inner.tree)))
        has, says = ("has no", "has one") if odd in wanted else ("has a", "does not say so")
        raise CheckpointError(f"{path}: '{name}' {has} tensor '{odd[:80]}', and the index {says}.")
    contents.size += source.size
    contents.tree |= inner.tree
    contents.storages |= inner.storages
    contents.records += inner.records
    contents.metadata |= inner.metadata


# --- the others


def _deepspeed(path: str, files: list[str]) -> str:
    """DeepSpeed spreads the weights over its optimizer's files, and puts a script beside them that joins them."""
    top = path if files[0].count(os.sep) else os.path.dirname(os.path.abspath(path))
    script = os.path.join(top, "zero_to_fp32.py")
    program = script if os.path.isfile(script) else "-m deepspeed.utils.zero_to_fp32"
    model = next((name for name in files if name.endswith("_model_states.pt")), files[0])
    return (
        f"is a checkpoint of DeepSpeed, in {len(files)} files. `python {program} {top} OUT` makes an ordinary one of "
        f"it. What every process saved for itself can be looked at as it is: `mvae inspect {os.path.join(path, model)}`"
    )


_KINDS: list[tuple[str | tuple[str, ...], Callable[[str, list[str]], str]]] = [
    (("_optim_states.pt", "_model_states.pt"), _deepspeed),
    (".bin.index.json", lambda *_: "is a model of Hugging Face in several pickled files: inspect them one by one, or "
     "load the model and save it again with `save_pretrained`, which writes safetensors"),
    (METADATA, lambda _, files: f"holds a sharded checkpoint: give '{os.path.dirname(files[0])}' inside it"),
    (".distcp", lambda _, files: f"has {len(files)} '.distcp' files and no '.metadata': the save was interrupted, "
     "or it got lost"),
    ("saved_model.pb", lambda *_: "is a model that TensorFlow saved: load it with `tf.saved_model.load`"),
    (".index", lambda *_: "is a checkpoint of TensorFlow: read it with `tf.train.load_checkpoint`"),
    ("_CHECKPOINT_METADATA", lambda *_: "is a checkpoint of Orbax, as JAX writes: load it with `orbax`"),
    (_SINGLE, lambda _, files: f"is a folder, not a checkpoint. Give one of the files in it, such as {files[0]}"),
]  # fmt: skip
"""The endings of the files that tell → given the folder and those files, what it is and what to do."""


def _what_it_is(path: str, names: list[str]) -> str:
    """What a folder is, by the names of the files in it, and in the folders in it."""
    folders = [name for name in sorted(os.listdir(path)) if os.path.isdir(os.path.join(path, name))][:100]
    inside = [os.path.join(folder, name) for folder in folders for name in _files(os.path.join(path, folder))]
    for files in (names, inside):
        for ending, says in _KINDS:
            found = [name for name in files if name.endswith(ending)]
            if found:
                return says(path, found)
    return "is a folder without a '.metadata' file, so not a sharded checkpoint. Give a checkpoint file"
