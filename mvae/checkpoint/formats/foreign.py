"""Files that are no checkpoints of PyTorch, recognised: what they are, and what to do with them.

Nothing in them is read beyond their first bytes, or the names in a zip.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from mvae.checkpoint.files.archive import Archive
from mvae.checkpoint.files.source import Source

_UNPACK = "unpack it first"
_WEB_PAGE = "a web page, most likely an error page saved in place of a download"

_HEADS: list[tuple[bytes, str]] = [
    (b"version https://git-lfs",
     "a Git LFS pointer, three lines of text that stand for the real file: run `git lfs pull`"),
    (b"<!DOCTYPE", _WEB_PAGE), (b"<!doctype", _WEB_PAGE), (b"<html", _WEB_PAGE), (b"<HTML", _WEB_PAGE),
    (b"\x1f\x8b", f"compressed with gzip: {_UNPACK}"),
    (b"\x28\xb5\x2f\xfd", f"compressed with zstd: {_UNPACK}"),
    (b"\xfd7zXZ", f"compressed with xz: {_UNPACK}"),
    (b"BZh", f"compressed with bzip2: {_UNPACK}"),
    (b"7z\xbc\xaf", f"a 7-Zip archive: {_UNPACK}"),
    (b"Rar!", f"a RAR archive: {_UNPACK}"),
    (b"\x89HDF", "an HDF5 file, as Keras writes: open it with `h5py`"),
    (b"GGUF", "a GGUF file, as llama.cpp reads: open it with the `gguf` package"),
    (b"lmgg", "a GGML file, from before GGUF: convert it with llama.cpp"),
    (b"tjgg", "a GGML file, from before GGUF: convert it with llama.cpp"),
    (b"\x93NUMPY", "a numpy array: open it with `numpy.load`"),
    (b"ORBX", "an Orbax checkpoint, as JAX writes"),
    (b"PYTORCH1", "in PyTorch's own container of 2018, which no released PyTorch reads any more"),
    (b"\x7fELF", "a program or a shared library, as AOTInductor compiles"),
    (b"RIFF", "sound, a picture or a film"), (b"\x89PNG", "a picture"), (b"\xff\xd8\xff", "a picture"),
    (b"%PDF", "a PDF document"),
    (b"ZLIB", "compressed by an old joblib: load it with `joblib.load`, which runs what is in it"),
    *((bytes([0x78, level]), "compressed with zlib, as joblib does: load it with `joblib.load`, which runs what is "
       "in it") for level in (0x01, 0x5E, 0x9C, 0xDA)),
]  # fmt: skip
"""First bytes → what the file is."""

_ZIPS: list[tuple[str, str]] = [
    (r"(.*/)?archive_format$|(.*/)?models/.*\.json$|serialized_exported_program\.json$",
     "what `torch.export.save` writes, a `.pt2`: a program with its weights. Load it with `torch.export.load`; "
     "`.state_dict` of what that gives can be saved with `torch.save`"),
    (r"(.*/)?\.data/(extern_modules|python_version)$",
     "a `torch.package`: code and objects. Load it with `torch.package.PackageImporter`, which runs that code"),
    (r"_stable_baselines3_version$|policy\.pth$",
     "a model of stable-baselines3"),
    (r".*\.npy$", "several numpy arrays, an `.npz`: open it with `numpy.load`"),
    (r"model\.weights\.h5$", "a model of Keras 3: load it with `keras.saving.load_model`"),
    (r"MAR-INF/", "a model archive of TorchServe: unpack it, the checkpoint is one of its files"),
    (r"META-INF/MANIFEST\.MF$", "a Java archive"),
    (r"\[Content_Types\]\.xml$|mimetype$", "a document of an office program"),
]  # fmt: skip
"""A pattern that a member's name matches → what the zip is."""

_CHECKPOINTS = (".pt", ".pth", ".ckpt", ".bin", ".safetensors", ".pkl")

_TAR_ERA = (b"sys_info", b"pickle", b"storages", b"tensors")


def foreign_file(source: Source) -> str:
    """What a file is that is no checkpoint, with what to do; empty if it is not known."""
    head = bytes(source.data[:512])
    for magic, meaning in _HEADS:
        if head.startswith(magic):
            return meaning
    if head[257:262] == b"ustar" or head[:100].rstrip(b"\0") in _TAR_ERA:
        return _tar(head)
    if _is_onnx(source):
        return "an ONNX model: open it with `onnx.load`"
    if _is_mindspore(source):
        return "a checkpoint of MindSpore: load it with `mindspore.load_checkpoint`"
    if _is_msgpack(head):
        return "msgpack, as Flax writes: load it with `flax.serialization.msgpack_restore`"
    return ""


def foreign_zip(archive: Archive) -> str:
    """What a zip without a `data.pkl` is, and which checkpoints lie in it, with how to look at one."""
    names = list(archive.members)
    known = (meaning for pattern, meaning in _ZIPS if any(re.match(pattern, name) for name in names))
    meaning = next(known, f"a zip file without a 'data.pkl'; it holds {', '.join(names[:4]) or 'nothing'}")
    inner = [name for name in names if name.endswith(_CHECKPOINTS)]
    if not inner or meaning.startswith(("what `torch", "a `torch.package`")):
        return meaning
    largest = max(inner, key=lambda name: archive.members[name].size)
    file = archive.source.name
    return (
        f"{meaning}. There are checkpoints in it: {', '.join(inner[:6])}. To look at one: "
        f"`unzip {file} {largest}` and `mvae inspect {largest}`"
    )


def _tar(head: bytes) -> str:
    if head[:100].rstrip(b"\0") in _TAR_ERA:
        return (
            "a tar archive, as PyTorch before 0.1.10 saved: `torch.load(path, weights_only=False)` still reads it, and "
            "runs what is in it. If you trust it, load it so and save it again"
        )
    name = head[:100].rstrip(b"\0").decode("utf-8", "replace")
    return f"a tar archive, which begins with '{name}': {_UNPACK}"


def _fields(data: memoryview, limit: int = 64) -> Iterator[tuple[int, int, memoryview]]:
    """(number, wire type, content) of the fields of a protocol buffer message, as long as they make sense.

    Source: protobuf.dev, "Encoding".
    """
    position = 0
    for _ in range(limit):
        if position == len(data):
            return
        tag, position = _varint(data, position)
        number, wire = tag >> 3, tag & 7
        length, start = {0: (0, position), 1: (8, position), 5: (4, position)}.get(wire, (-1, position))
        if wire == 0:
            _, start = _varint(data, position)
        elif wire == 2:
            length, start = _varint(data, position)
        if position < 0 or start < 0 or length < 0 or not number or start + length > len(data):
            yield 0, 0, data[:0]
            return
        yield number, wire, data[start : start + length]
        position = start + length


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    """(number, where it ends), or a place of -1 if there is none."""
    value = 0
    for shift, byte in enumerate(bytes(data[position : position + 10]) if position >= 0 else b""):
        value |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:
            return value, position + shift + 1
    return 0, -1


_ONNX = {1: 0, 2: 2, 3: 2, 4: 2, 5: 0, 6: 2, 7: 2, 8: 2, 14: 2, 20: 2, 25: 2, 26: 2}
"""`ModelProto` in `onnx.proto`: number of a field → its wire type."""


def _is_onnx(source: Source) -> bool:
    """A version, and a graph or sets of operators; and nothing that a model does not have."""
    found = list(_fields(source.data))
    numbers = {number for number, _, _ in found}
    return (
        bool(numbers) and all(_ONNX.get(n) == wire for n, wire, _ in found) and 1 in numbers and bool(numbers & {7, 8})
    )


def _is_mindspore(source: Source) -> bool:
    """Entries with a name and a tensor, which has its type as text."""
    first = next(_fields(source.data), (0, 0, source.data[:0]))
    entry = list(_fields(first[2]))
    if [(number, wire) for number, wire, _ in (first, *entry)] != [(1, 2), (1, 2), (2, 2)]:
        return False
    return any(
        number == 2 and re.fullmatch(rb"[A-Z][A-Za-z]+\d*", content) for number, _, content in _fields(entry[1][2])
    )


_MSGPACK = re.compile(rb"(?:[\x81-\x8f]|\xde..|\xdf....)(?:([\xa1-\xbf])|\xd9(.))", re.DOTALL)


def _is_msgpack(head: bytes) -> bool:
    """A map whose first key is a text."""
    found = _MSGPACK.match(head)
    length = (found[1] or found[2])[0] & (0x1F if found[1] else 0xFF) if found else 0
    key = head[found.end() :][:length].decode("ascii", "replace") if found else ""
    return bool(length) and len(key) == length and key.isprintable()


def text_file(source: Source) -> str:
    """What a file of text is; empty if it is something else."""
    head = bytes(source.data[:512])
    head = head if source.size <= 512 else head[: head.rfind(b"\n") + 1] or head[:400]
    start = head.decode("utf-8", "replace").rstrip("\ufffd").strip()
    if not start or not all(char.isprintable() or char in "\r\n\t\f" for char in start) or "\ufffd" in start:
        return ""
    is_json = start[0] in "{["
    if is_json and b'"weight_map"' in bytes(source.data[: 1 << 20]):
        return "the index of a model in several files, as Hugging Face writes: give the folder it is in"
    line = start.splitlines()[0][:60]
    kind = "JSON" if is_json else "text, YAML perhaps" if re.match(r"[\w.-]+:(\s|$)|---", line) else "text"
    return f"{kind}; it begins with {line!r}"
