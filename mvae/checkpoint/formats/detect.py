"""Which kind of file it is, from its first bytes and its directory."""

from __future__ import annotations

import re
from enum import StrEnum

from mvae.checkpoint.files.source import Source
from mvae.errors import CheckpointError


class Format(StrEnum):
    """The kinds of checkpoint that are read. The value is the word shown to people."""

    ZIP = "PyTorch zip"
    """`torch.save` since PyTorch 1.6."""
    TORCHSCRIPT = "TorchScript"
    """`torch.jit.save`: the same zip with code in it."""
    LEGACY = "PyTorch legacy"
    """`torch.save` before PyTorch 1.6, or with `_use_new_zipfile_serialization=False`: five pickles, then raw
    bytes.
    """
    PICKLE = "pickle"
    """A pickle on its own, without tensors."""
    SAFETENSORS = "safetensors"
    SHARDED = "sharded folder"
    """`torch.distributed.checkpoint`: a folder with `.metadata` and one `.distcp` file per writer."""


_FOREIGN = [
    (
        b"version https://git-lfs",
        "a Git LFS pointer, three lines of text that stand for the real file: run `git lfs pull`",
    ),
    (b"<!DOCTYPE", "a web page, most likely an error page saved in place of a download"),
    (b"<html", "a web page, most likely an error page saved in place of a download"),
    (b"\x1f\x8b", "compressed with gzip: unpack it first"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd: unpack it first"),
    (b"\xfd7zXZ", "compressed with xz: unpack it first"),
    (b"BZh", "compressed with bzip2: unpack it first"),
    (b"7z\xbc\xaf", "a 7-Zip archive: unpack it first"),
    (b"\x89HDF", "an HDF5 file, as Keras writes"),
    (b"GGUF", "a GGUF file, as llama.cpp reads"),
    (b"\x93NUMPY", "a numpy array: open it with `numpy.load`"),
    (b"ORBX", "an Orbax checkpoint, as JAX writes"),
    (b"\x08\x07\x12", "an ONNX model, it seems"),
]

_LEGACY_MAGIC = re.compile(
    rb"(\x80[\2-\5](\x95.{8})?\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19|L119547037146038801333356L\n)\.", re.DOTALL
)
"""The number 0x1950a86a20f9469cfc6c as pickles of protocol 2 and 3, 4 and 5 (with a frame), 0 and 1 write it."""


def detect(source: Source) -> Format:
    """The kind of checkpoint in a file, for a zip only from its first bytes.

    Raises:
        CheckpointError: none of these; the message says what it is, if that can be seen.
    """
    head = bytes(source.data[:512])
    if head[:4] in (b"PK\3\4", b"PK\5\6"):
        return Format.ZIP
    if _LEGACY_MAGIC.match(head):
        return Format.LEGACY
    if is_safetensors(source):
        return Format.SAFETENSORS
    if head[257:262] == b"ustar" or head[:100].rstrip(b"\0") in (
        b"sys_info",
        b"pickle",
        b"storages",
        b"tensors",
    ):
        raise CheckpointError(
            f"{source.name} is a tar archive. PyTorch before 0.1.10 saved such files: load it with an old "
            "PyTorch and save it again. If it is a folder that somebody packed, unpack it first."
        )
    for magic, meaning in _FOREIGN:
        if head.startswith(magic):
            raise CheckpointError(f"{source.name} is not a checkpoint: it is {meaning}.")
    if (head[:1] == b"\x80" and 2 <= head[1] <= 5 if len(head) > 1 else False) or _looks_like_old_pickle(source):
        return Format.PICKLE
    raise CheckpointError(
        f"{source.name} is not a checkpoint: it starts with {head[:8]!r}, which is neither a zip, nor a "
        "pickle, nor safetensors. A file whose beginning was lost looks like this too."
    )


def is_safetensors(source: Source) -> bool:
    """True if the file starts with a length that could be a header's, and what stands after it starts a JSON object."""
    length = int.from_bytes(source.data[:8], "little")
    return 2 <= length < 2**40 and bytes(source.data[8:1024]).lstrip(b" \t\n\r")[:1] == b"{"


def _looks_like_old_pickle(source: Source) -> bool:
    """Protocols 0 and 1 have no magic number: a container opcode first and STOP last."""
    return source.size > 2 and source.data[0] in b"(]}cI)lV" and source.data[source.size - 1] == ord(".")
