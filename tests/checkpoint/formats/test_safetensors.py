"""safetensors: refused is what the library of that name refuses, read is what it reads, and to the bit."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from mvae.checkpoint import CheckpointError, inspect, read, salvage, verify
from mvae.checkpoint.formats.detect import Format
from mvae.checkpoint.formats.safetensors import CODES


def file_of(header: Any, data: bytes = b"") -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def by_library(raw: bytes) -> Any:
    """name → (code, shape, bytes), or None if it refuses."""
    try:
        return {
            name: (found["dtype"], found["shape"], bytes(found["data"])) for name, found in safetensors.deserialize(raw)
        }
    except safetensors.SafetensorError:
        return None


def by_us(raw: bytes) -> Any:
    """The same; the text of a refusal."""
    try:
        contents = read(raw)
    except CheckpointError as error:
        return str(error)
    assert contents.format is Format.SAFETENSORS
    found = {}
    for name, tensor in contents.tree.items():
        if tensor.kind.startswith("packed"):
            _, code, shape = tensor.kind.split(" ", 2)
            found[name] = (code, json.loads(shape), bytes(tensor.storage.view()))
        else:
            found[name] = (CODES[tensor.dtype], list(tensor.shape), bytes(tensor.storage.view()))
    return found


def check(raw: bytes) -> Any:
    """Both read the same, or both refuse."""
    ours, theirs = by_us(raw), by_library(raw)
    assert ours == theirs if theirs is not None else isinstance(ours, str)
    return ours


def entry(dtype: str = "F32", shape: str = "[2]", offsets: str = "[0,8]", more: str = "", name: str = "w") -> str:
    return f'"{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}{more}}}'


def one(*args: str, **fields: str) -> bytes:
    return f"{{{entry(*args, **fields)}}}".encode()


EIGHT = b"01234567"

READ = {
    "plain": (one(), EIGHT),
    "white space": (b" \n\t\r" + one() + b" \n\t\r", EIGHT),
    "no tensor": (b"{}", b""),
    "a scalar": (one(shape="[]", offsets="[0,4]"), b"0123"),
    "an unknown field": (one(more=',"x":[1,{"y":null}],"x":2'), EIGHT),
    "200 dimensions": (one(shape=str([1] * 199 + [2])), EIGHT),
    "four bits": (one("F4", "[4,4]"), EIGHT),
    "four bits, an odd last length": (one("F4", "[2,8,1]"), EIGHT),
    "six bits": (one("F6_E2M3", "[4]", "[0,3]"), b"012"),
    "six bits, too": (one("F6_E3M2", "[8]", "[0,6]"), b"012345"),
    "metadata": (b'{"__metadata__":{"a":"b","a":"c"},' + entry().encode() + b"}", EIGHT),
    "metadata that is null": (b'{"__metadata__":null}', b""),
    "any name": (one(name="\\u0000\\ud83d\\ude00"), EIGHT),
    "no name": (one(name=""), EIGHT),
    "nothing, of a shape past counting": (one(shape="[0,9223372036854775808,4]", offsets="[0,0]"), b""),
    "two of nothing": (f'{{{entry("F32", "[0]", "[0,0]")},{entry("F32", "[0]", "[0,0]", name="v")}}}'.encode(), b""),
    "not in order": (f'{{{entry(offsets="[8,16]", name="b")},{entry(name="a")}}}'.encode(), EIGHT * 2),
    "a name twice for the same bytes": (f"{{{entry()},{entry('I32')}}}".encode(), EIGHT),
    "depth 127": (one(more=',"x":' + "[" * 125 + "]" * 125), EIGHT),
}  # fmt: skip


@pytest.mark.parametrize(("header", "data"), READ.values(), ids=READ)
def test_what_the_library_reads_is_read_the_same(header: bytes, data: bytes, tmp_path: Path) -> None:
    raw = file_of(header, data)
    assert isinstance(check(raw), dict)
    (tmp_path / "x.safetensors").write_bytes(raw)
    assert verify(tmp_path / "x.safetensors").ok
    file = inspect(raw)
    assert sum(file.bytes.values()) == file.size
    file.to_dict()
    file._repr_html_()


REFUSED = {
    "an unknown type in an entry whose name comes again": (
        f"{{{entry('C128', '[0]', '[0,0]')},{entry()}}}".encode(),
        EIGHT,
        "the type 'C128'",
    ),
    "offsets are floats": (one(offsets="[0.0,8.0]"), EIGHT, "whole numbers"),
    "offsets are booleans": (one(offsets="[false,8]"), EIGHT, "whole numbers"),
    "an offset is minus zero": (one(offsets="[-0,8]"), EIGHT, "whole numbers"),
    "offsets are texts": (one(offsets='["0",8]'), EIGHT, "whole numbers"),
    "three offsets": (one(offsets="[0,8,8]"), EIGHT, "whole numbers"),
    "offsets the wrong way round": (one(offsets="[8,0]"), EIGHT, "is 8 bytes, not -8"),
    "a shape is too small": (one(shape="[1]"), EIGHT, "is 4 bytes, not 8"),
    "a scalar of 8 bytes": (one(shape="[]"), EIGHT, "is 4 bytes, not 8"),
    "a negative shape": (one(shape="[-2]"), EIGHT, "whole numbers"),
    "no shape": (one(shape="null"), EIGHT, "whole numbers"),
    "a shape past counting": (one(shape="[9223372036854775808,4,0]", offsets="[0,0]"), b"", "more than there are"),
    "a length past counting": (one(shape="[18446744073709551616,0]", offsets="[0,0]"), b"", "whole numbers"),
    "half a byte": (one("F4", "[3]", "[0,2]"), b"01", "whole byte"),
    "an unknown type": (one("F99"), EIGHT, "does not have"),
    "a type in small letters": (one("f32"), EIGHT, "does not have"),
    "complex128": (one("C128", "[1]", "[0,16]"), EIGHT * 2, "does not have"),
    "a field twice": (one(more=',"dtype":"F32"'), EIGHT, "with one 'dtype'"),
    "a field missing": (b'{"w":{"dtype":"F32","shape":[2]}}', EIGHT, "with one 'dtype'"),
    "an entry that is null": (b'{"w":null}', EIGHT, "not an object"),
    "a list": (b"[]", b"", "not a checkpoint"),
    "a name twice": (f"{{{entry()},{entry(offsets='[8,16]')}}}".encode(), EIGHT * 2, "a hole"),
    "overlap": (f"{{{entry()},{entry(name='v')}}}".encode(), EIGHT, "belong to another"),
    "a hole": (one(offsets="[4,12]"), EIGHT * 2, "a hole"),
    "a zero-length tensor in the middle of another": (
        f'{{{entry()},{entry(shape="[0]", offsets="[4,4]", name="v")}}}'.encode(), EIGHT, "belong to another"),
    "bytes at the end": (one(), EIGHT + b"x", "behind the last tensor"),
    "bytes and no tensor": (b"{}", b"x" * 8, "behind the last tensor"),
    "cut off": (one(), EIGHT[:7], "cut off"),
    "NaN": (one(more=',"x":NaN'), EIGHT, "not JSON"),
    "a number out of range": (one(more=',"x":1e999'), EIGHT, "not JSON"),
    "an integer out of range": (one(more=',"x":' + "9" * 400), EIGHT, "not JSON"),
    "half a character": (one(name="\\ud800"), EIGHT, "not JSON"),
    "half a character in metadata": (b'{"__metadata__":{"a":"\\udc00"}}', b"", "not JSON"),
    "not UTF-8": (one().replace(b'"w"', b'"\xff"'), EIGHT, "not JSON"),
    "a control character": (one(name="\x01"), EIGHT, "not JSON"),
    "a zero behind the header": (one() + b"\0", EIGHT, "not JSON"),
    "not JSON": (b"{not json}", EIGHT, "not JSON"),
    "without an end": (b'{"a":' + b"[" * 100_000, EIGHT, "not JSON"),
    "depth 128": (one(more=',"x":' + "[" * 126 + "]" * 126), EIGHT, "nests values deeper"),
    "metadata is a list": (b'{"__metadata__":[1],' + entry().encode() + b"}", EIGHT, "object of texts"),
    "metadata has a number": (b'{"__metadata__":{"a":1}}', b"", "object of texts"),
    "metadata twice": (b'{"__metadata__":{},"__metadata__":{}}', b"", "twice"),
}  # fmt: skip


@pytest.mark.parametrize(("header", "data", "why"), REFUSED.values(), ids=REFUSED)
def test_what_the_library_refuses_is_refused_with_the_reason(
    header: bytes, data: bytes, why: str, tmp_path: Path
) -> None:
    raw = file_of(header, data)
    assert why in check(raw)
    (tmp_path / "x.safetensors").write_bytes(raw)
    try:
        assert not verify(tmp_path / "x.safetensors").ok
    except CheckpointError as error:
        assert why in str(error)  # noqa: PT017


def test_a_header_that_is_too_long_is_refused(tmp_path: Path) -> None:
    raw = struct.pack("<Q", 100_000_001) + one() + b" " * (100_000_001 - len(one())) + EIGHT
    assert by_library(raw) is None
    with pytest.raises(CheckpointError, match="allows 100,000,000"):
        read(raw)


def test_a_header_that_is_cut_off_says_so() -> None:
    raw = file_of(one(), EIGHT)
    for length in range(9, 8 + len(one())):
        assert "header claims" in check(raw[:length])


def test_every_type_that_torch_writes_is_read_to_the_bit(tmp_path: Path) -> None:
    tensors = {
        name: torch.arange(6).reshape(2, 3).to(getattr(torch, name)) for name in CODES if name != "float8_e8m0fnu"
    }
    save_file(tensors, tmp_path / "x.safetensors", metadata={"who": "me"})
    file, loaded = inspect(tmp_path / "x.safetensors"), load_file(tmp_path / "x.safetensors")
    assert file.contents.metadata == {"who": "me"}
    for name, tensor in tensors.items():
        found = file.tensor(name)
        assert (found.dtype, found.shape) == (name, (2, 3))
        assert file.array(name).tobytes() == tensor.view(torch.uint8).numpy().tobytes()
        assert loaded[name].dtype == tensor.dtype


def test_more_dimensions_than_numpy_has_are_a_message() -> None:
    tensor = read(file_of(one(shape=str([1] * 199 + [2])), EIGHT)).tree["w"]
    with pytest.raises(CheckpointError, match="200 dimensions"):
        tensor.array()


def test_what_lies_in_a_file_that_is_cut_off_is_salvaged(tmp_path: Path) -> None:
    tensors = {name: torch.full((100,), float(i)) for i, name in enumerate("abc")}
    save_file(tensors, tmp_path / "whole.safetensors")
    raw = (tmp_path / "whole.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(raw[:-100])
    with pytest.raises(CheckpointError, match="cut off"):
        read(tmp_path / "cut.safetensors")
    found = salvage(tmp_path / "cut.safetensors", tmp_path / "out.ckpt")
    assert not found.complete
    saved = torch.load(tmp_path / "out.ckpt", weights_only=True)
    assert [float(saved[name][0]) for name in sorted(saved)] == [0.0, 1.0]


# --- both at once


_NUMBERS = st.sampled_from(
    ["0", "1", "2", "4", "8", "16", "-0", "-1", "0.0", "8.0", "1e1", "true", "null", '"8"', "9" * 25, "00"]
)
_SIZES = st.lists(_NUMBERS, max_size=4).map(lambda found: f"[{','.join(found)}]")
_TYPES = st.sampled_from([*CODES.values(), "F4", "F6_E2M3", "F6_E3M2", "C128", "F8", "f32", ""])
_NAMES = st.sampled_from(
    ["w", "v", "__metadata__", "dtype", "\\u0077", "\\ud800", "\\ud83d\\ude00", "", "é", "\x7f", "\t"]
)
_VALUES = st.sampled_from(
    ["1", '"x"', "NaN", "1e999", "[[]]", "{}", '{"a":1,"a":2}', '"\\udc00"', "[" * 130 + "]" * 130, "Infinity"]
)


_BITS = {code: 8 * getattr(torch, name).itemsize for name, code in CODES.items()} | {
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
}


@st.composite
def likely(draw: st.DrawFn) -> str:
    """Entries whose spans fit their shapes and follow each other, most of the time."""
    parts, end = [], 0
    for _ in range(draw(st.integers(0, 3))):
        code, shape = draw(_TYPES), draw(st.lists(st.integers(0, 4), max_size=3))
        size = _BITS.get(code, 8)
        for length in shape:
            size *= length
        size //= 8
        start, end = end, end + size
        offsets = [start + draw(st.sampled_from([0] * 20 + [-1, 1])), end + draw(st.sampled_from([0] * 20 + [1]))]
        more = draw(st.sampled_from([""] * 5 + [',"x":1']))
        parts.append(entry(code, str(shape), str(offsets), more, draw(_NAMES)))
    draw(st.randoms(use_true_random=False)).shuffle(parts)
    return f"{{{','.join(parts)}}}" + "@" * end


@st.composite
def unlikely(draw: st.DrawFn) -> str:
    """Entries that hold anything."""
    parts = []
    for _ in range(draw(st.integers(0, 3))):
        more = f',"{draw(st.sampled_from(["x", "dtype"]))}":{draw(_VALUES)}' if draw(st.booleans()) else ""
        parts.append(entry(draw(_TYPES), draw(_SIZES), draw(_SIZES), more, draw(_NAMES)))
    if draw(st.booleans()):
        parts.append(f'"__metadata__":{draw(_VALUES)}')
    return f"{{{','.join(parts)}}}"


@given(
    likely() | unlikely(),
    st.sampled_from(["", "", "", " ", "\n", "\0", ","]),
    st.integers(0, 3),
    st.sampled_from([0, 0, 0, 0, 1, -1]),
)
def test_any_header_is_read_by_both_or_by_none(header: str, behind: str, before: int, more: int) -> None:
    text, data = header.rstrip("@"), b"@" * (header.count("@"))
    raw = file_of((" " * before + text + behind).encode("utf-8", "surrogatepass"), (data + b"@")[: len(data) + more])
    check(raw)


@given(st.data())
def test_any_byte_of_a_real_file_may_change(data: st.DataObject) -> None:
    raw = bytearray(
        file_of(
            {
                "__metadata__": {"a": "b"},
                "w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
                "v": {"dtype": "BF16", "shape": [1, 2], "data_offsets": [8, 12]},
            },
            EIGHT + b"0123",
        )
    )
    for at in data.draw(st.lists(st.integers(8, len(raw) - 13), min_size=1, max_size=3)):
        raw[at] = data.draw(st.sampled_from(b'0129-+.eE"\\,:[]{} \n\0tfn') | st.integers(0, 255))
    check(bytes(raw))
