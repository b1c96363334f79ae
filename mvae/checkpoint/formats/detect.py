"""Which kind of file it is, from its first bytes and its directory."""

from __future__ import annotations

import re
from enum import StrEnum

from mvae.checkpoint.files.source import Source
from mvae.checkpoint.formats.foreign import foreign_file, text_file
from mvae.checkpoint.pickled.limits import Limits
from mvae.checkpoint.pickled.machine import Unpickler
from mvae.errors import CheckpointError, UnsupportedFileError


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


_LEGACY_MAGIC = re.compile(
    rb"(\x80[\2-\5](\x95.{8})?\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19|L119547037146038801333356L\n)\.", re.DOTALL
)
"""The number 0x1950a86a20f9469cfc6c as pickles of protocol 2 and 3, 4 and 5 (with a frame), 0 and 1 write it."""

_PICKLE = re.compile(rb"\x80[\2-\5].", re.DOTALL)


def detect(source: Source) -> Format:
    """The kind of checkpoint in a file, for a zip only from its first bytes.

    Raises:
        UnsupportedFileError: none of these; the message says what it is, if that can be seen.
    """
    head = bytes(source.data[:512])
    if head[:4] in (b"PK\3\4", b"PK\5\6"):
        return Format.ZIP
    if _LEGACY_MAGIC.match(head):
        return Format.LEGACY
    if is_safetensors(source):
        return Format.SAFETENSORS
    if _PICKLE.match(head):
        return Format.PICKLE
    meaning = foreign_file(source)
    if not meaning and _is_old_pickle(source):
        return Format.PICKLE
    meaning = meaning or text_file(source)
    if meaning:
        raise UnsupportedFileError(f"{source.name} is not a checkpoint: it is {meaning}.")
    raise UnsupportedFileError(
        f"{source.name} is not a checkpoint: it starts with {head[:8]!r}, which is neither a zip, nor a "
        "pickle, nor safetensors. A file whose beginning was lost looks like this too."
    )


def is_safetensors(source: Source) -> bool:
    """True if the file starts with a length that could be a header's, and what stands after it starts a JSON object."""
    length = int.from_bytes(source.data[:8], "little")
    return 2 <= length < 2**40 and bytes(source.data[8:1024]).lstrip(b" \t\n\r")[:1] == b"{"


def _is_old_pickle(source: Source) -> bool:
    """Protocols 0 and 1 have no first bytes of their own: it is one if it can be read as one, or a good way into it."""
    if source.size < 2 or source.data[source.size - 1] != ord("."):
        return False
    try:
        Unpickler(source.data, limits=Limits(opcodes=4096)).load()
    except CheckpointError as error:
        return "Limits." in str(error)
    return True
