"""Our zip reader against PyTorch's own: what the two read is the same, or ours refuses and says why.

Every file here is harmless. Its members hold values that tell which of them was read.
"""

from __future__ import annotations

import io
import pickle
import struct
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mvae.checkpoint import CheckpointError, read
from mvae.checkpoint.formats.detect import Format
from mvae.errors import UnsupportedFileError


@dataclass
class Member:
    """A zip member, every field of which can be set against the others."""

    name: bytes
    data: bytes
    flags: int = 0
    local_flags: int = 0
    method: int = 0
    external: int = 0
    local_name: bytes | None = None
    disk: int = 0
    extra: bytes = b""
    local_extra: bytes = b""
    comment: bytes = b""
    wrong_size: int = 0


@dataclass
class Oddities:
    """What can be odd about a zip as a whole."""

    prefix: bytes = b""
    between: bytes = b""
    comment: bytes = b""
    suffix: bytes = b""
    entries: int = 0
    entries_here: int = 0
    disk: int = 0
    end64: str = ""
    order: list[int] | None = None
    start: int = 0


def _packed(member: Member) -> bytes:
    if member.method != 8:
        return member.data
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(member.data) + packer.flush()


def zip_of(members: list[Member], odd: Oddities | None = None) -> bytes:
    """The bytes of a zip."""
    odd = odd or Oddities()
    out, entries = bytearray(odd.prefix), []
    for m in members:
        stored, at = _packed(m), len(out)
        sizes = zlib.crc32(m.data), len(stored), max(0, len(m.data) + m.wrong_size)
        local = m.name if m.local_name is None else m.local_name
        out += struct.pack(
            "<4s5H3L2H", b"PK\3\4", 20, m.local_flags, m.method, 0, 0, *sizes, len(local), len(m.local_extra)
        )
        out += local + m.local_extra + stored
        lengths = len(m.name), len(m.extra), len(m.comment)
        fixed = (b"PK\1\2", 0x314, 20, m.flags, m.method, 0, 0, *sizes, *lengths, m.disk, 0, m.external, at)
        entries.append(struct.pack("<4s6H3L5H2L", *fixed) + m.name + m.extra + m.comment)
    out += odd.between
    start = len(out) + odd.start
    directory = b"".join(entries[i] for i in odd.order or range(len(entries)) if i < len(entries))
    out += directory
    end, count, size = len(out), len(entries) + odd.entries, len(directory)
    if odd.end64:
        fewer = 1 if odd.end64 == "other count" else 0
        mark = b"PK\6\6" if odd.end64 != "no mark" else b"PK\0\0"
        numbers = 44, 45, 45, 0, 0, count - fewer, count - fewer, size, start
        out += struct.pack("<4sQ2H2L4Q", mark, *numbers)
        out += struct.pack("<4sLQL", b"PK\6\7", 0, end, 1)
        if odd.end64 == "only":
            count, size, start = 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF
    here = (count + odd.entries_here) & 0xFFFF
    out += struct.pack("<4s4H2LH", b"PK\5\6", odd.disk, odd.disk, here, count & 0xFFFF, size, start, len(odd.comment))
    return bytes(out) + odd.comment + odd.suffix


def weights(value: str, key: str = "0") -> bytes:
    """A pickle of a value and a tensor of two floats, whose bytes are in another member."""
    buffer = io.BytesIO()
    torch.save({"value": value, "w": torch.tensor([1.0, 2.0])}, buffer)
    raw = bytes(read(buffer.getvalue()).pickles[0].view())
    return raw.replace(b"X\1\0\0\0000", b"X\1\0\0\0" + key.encode())


def floats(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


ROOT = b"archive/"
PLAIN = [
    Member(ROOT + b"data.pkl", weights("A")),
    Member(ROOT + b"byteorder", b"little"),
    Member(ROOT + b"data/0", floats(1, 2)),
    Member(ROOT + b"version", b"3\n"),
]


def by_torch(raw: bytes) -> Any:
    """(value, weights) as PyTorch loads them, or None if it refuses."""
    try:
        found = torch.load(io.BytesIO(raw), weights_only=True)
        return found["value"], found["w"].tolist()
    except Exception:
        return None


def by_us(raw: bytes) -> Any:
    """The same by `read`; the text of a refusal."""
    try:
        found = read(raw)
        if found.format in (Format.TORCHSCRIPT, Format.PICKLE):
            return f"{found.format}, which torch.load(weights_only=True) does not take"
        return found.tree["value"], found.tree["w"].array().tolist()
    except CheckpointError as error:
        return str(error)


def check(raw: bytes) -> Any:
    """Read the same, or refuse."""
    ours = by_us(raw)
    assert isinstance(ours, str) or ours == by_torch(raw)
    return ours


def test_a_plain_one_is_read_by_both() -> None:
    assert check(zip_of(PLAIN)) == ("A", [1.0, 2.0])


TWINS = [
    Member(ROOT + b"DATA.PKL", weights("B")),
    Member(ROOT + b"Data.pkl", weights("B")),
    Member(ROOT + b"data.pkl", weights("B")),
    Member(ROOT + b"DATA/0", floats(-7, -7)),
    Member(ROOT + b"BYTEORDER", b"big"),
    Member(b"Archive/data/0", floats(-7, -7)),
    Member(b"ARCHIVE/data.pkl", weights("B")),
]


@pytest.mark.parametrize("twin", TWINS, ids=lambda twin: twin.name.decode())
def test_two_members_whose_names_differ_in_case_only_are_refused_wherever_they_stand(twin: Member) -> None:
    loaded = set()
    for at in range(len(PLAIN) + 1):
        raw = zip_of([*PLAIN[:at], twin, *PLAIN[at:]])
        assert "would take one of the two" in check(raw)
        loaded.add(str(by_torch(raw)))
    if twin.name.startswith(ROOT):
        assert len(loaded) > 1, "PyTorch takes the same one in every order: the test shows nothing"


@pytest.mark.parametrize("at", range(4))
def test_capital_letters_alone_are_no_harm(at: int) -> None:
    members = [replace(m, name=m.name.upper() if i == at else m.name) for i, m in enumerate(PLAIN)]
    members = [replace(m, name=ROOT + m.name.partition(b"/")[2]) for m in members]
    assert check(zip_of(members)) == by_torch(zip_of(members)) == ("A", [1.0, 2.0])


REFUSED = [
    ("encrypted", {"flags": 0x1}),
    ("encrypted", {"flags": 0x40}),
    ("encrypted", {"flags": 0x2000}),
    ("is a patch", {"flags": 0x20}),
    ("compressed with method 9", {"method": 9}),
    ("marked as a folder", {"external": 0x10}),
]


@pytest.mark.parametrize(("why", "fields"), REFUSED)
@pytest.mark.parametrize("at", range(4))
def test_a_member_that_torch_cannot_read_is_refused(why: str, fields: dict[str, int], at: int) -> None:
    raw = zip_of([replace(m, **fields) if i == at else m for i, m in enumerate(PLAIN)])
    assert why in check(raw)
    assert by_torch(raw) is None or why == "marked as a folder"  # PyTorch takes what happens to be in memory


@pytest.mark.parametrize("fields", [{"flags": 1}, {"flags": 0x40}, {"flags": 0x20}, {"method": 9}])
def test_what_is_only_not_read_is_not_called_damaged(fields: dict[str, int]) -> None:
    with pytest.raises(UnsupportedFileError):
        read(zip_of([replace(PLAIN[0], **fields), *PLAIN[1:]]))


@pytest.mark.parametrize(
    ("why", "members"),
    [
        ("beside the folder", [*PLAIN, Member(b"other/x", b"")]),
        ("beside the folder", [*PLAIN, Member(b"x", b"")]),
        ("in which version", PLAIN[:3]),
        ("in which version", [*PLAIN[:3], Member(ROOT + b"version", b"11")]),
        ("in which version", [*PLAIN, Member(ROOT + b".data/version", b"")]),
        ("in which version", [*PLAIN[:3], Member(ROOT + b"version", b"x")]),
        ("without a 'data.pkl'", [Member(b"first/x", b""), *PLAIN]),
        ("'little' or 'big'", [PLAIN[0], Member(ROOT + b"byteorder", b"middle"), *PLAIN[2:]]),
    ],
)
def test_what_torch_refuses_is_refused(why: str, members: list[Member]) -> None:
    assert why in check(zip_of(members))
    assert by_torch(zip_of(members)) is None


def test_a_name_that_ends_like_a_folder_is_refused_if_bytes_stand_under_it() -> None:
    raw = zip_of([*PLAIN, Member(ROOT + b"data/0/", floats(-7, -7))])
    assert "marked as a folder" in check(raw)


def test_a_local_name_that_differs_is_refused() -> None:
    for name in (b"archive/data.pkx", b"archive/data.pkl_", b"archive/DATA.PKL"):
        raw = zip_of([replace(PLAIN[0], local_name=name), *PLAIN[1:]])
        assert "where the file itself says" in check(raw)
        assert by_torch(raw) is not None


def test_a_pickle_in_front_of_a_zip_is_refused() -> None:
    assert "a zip file behind it" in check(pickle.dumps("Z", 2) + zip_of(PLAIN))
    whole = {"value": "Z", "w": read(zip_of(PLAIN)).path, "zip": zip_of(PLAIN)}
    assert read(pickle.dumps(whole)).tree == whole  # one that holds a zip is no harm


@pytest.mark.parametrize("name", ["twin_pickle", "twin_weights"])
def test_the_case_with_a_twin(name: str, tmp_path: Path) -> None:
    twin = TWINS[0] if name == "twin_pickle" else TWINS[3]
    for at in range(len(PLAIN) + 1):
        path = tmp_path / f"{at}.ckpt"
        path.write_bytes(zip_of([*PLAIN[:at], twin, *PLAIN[at:]]))
        with pytest.raises(CheckpointError, match="without regard to case"):
            read(path)


# --- everything at once


_NAMES = [
    b"data.pkl",
    b"DATA.PKL",
    b"data/0",
    b"DATA/0",
    b"data/1",
    b"version",
    b"Version",
    b"byteorder",
    b".data/version",
]
_ROOTS = [ROOT] * 12 + [b"Archive/", b"", b"x/", b"archive//", b"archive\\"]
_DATA = [
    weights("A"),
    weights("B"),
    weights("C", "1"),
    floats(1, 2),
    floats(-7, -7),
    b"little",
    b"big",
    b"3\n",
    b"4",
    b"",
]


@st.composite
def members(draw: st.DrawFn) -> list[Member]:
    """Those of a plain checkpoint, with a few changed, added or moved."""
    found = [replace(member) for member in PLAIN]
    for _ in range(draw(st.integers(0, 2))):
        name = draw(st.sampled_from(_ROOTS)) + draw(st.sampled_from(_NAMES))
        found.insert(draw(st.integers(0, len(found))), Member(name, draw(st.sampled_from(_DATA))))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(found) - 1))
        field, value = draw(
            st.one_of(
                st.tuples(st.sampled_from(["flags", "local_flags"]), st.integers(0, 15).map(lambda bit: 1 << bit)),
                st.tuples(st.just("method"), st.sampled_from([8, 8, 1, 12, 99])),
                st.tuples(st.just("external"), st.sampled_from([0x10, 0x20, 0x81A40000, 0x41ED0010])),
                st.tuples(st.just("local_name"), st.sampled_from([b"", b"archive/data.pkl", b"x" * 600])),
                st.tuples(st.just("disk"), st.sampled_from([1, 0xFFFF])),
                st.tuples(
                    st.sampled_from(["extra", "local_extra"]),
                    st.sampled_from([b"FB\2\0ZZ", b"\1\0\x08\0" + bytes(8), b"xy"]),
                ),
                st.tuples(st.just("comment"), st.just(b"hello")),
                st.tuples(st.just("wrong_size"), st.sampled_from([-1, 1])),
                st.tuples(st.just("data"), st.sampled_from(_DATA)),
                st.tuples(st.just("name"), st.sampled_from(_NAMES).map(lambda name: ROOT + name)),
            )
        )
        found[at] = replace(found[at], **{field: value})
    return draw(st.permutations(found)) if draw(st.booleans()) else found


oddities = st.builds(
    Oddities,
    prefix=st.sampled_from([b""] * 8 + [b"PK\3\4", b"junk", pickle.dumps("Z", 2), zip_of(PLAIN)]),
    between=st.sampled_from([b"", b"", b"junk", b"PK\1\2"]),
    comment=st.sampled_from([b""] * 4 + [b"hello", b"PK\5\6" + bytes(2), b"PK\5\6" + bytes(40), b"x" * 5000]),
    suffix=st.sampled_from([b""] * 4 + [b"hello", b"x" * 5000, b"x" * 70_000, zip_of(PLAIN)[-22:]]),
    entries=st.sampled_from([0, 0, 0, 0, -1, 1]),
    entries_here=st.sampled_from([0, 0, 0, 0, -1, 1]),
    disk=st.sampled_from([0, 0, 0, 0, 1, 0xFFFF]),
    end64=st.sampled_from(["", "", "", "also", "only", "other count", "no mark"]),
    order=st.none() | st.permutations(range(6)),
    start=st.sampled_from([0, 0, 0, 0, 0, -1, 4, 46]),
)


@given(members(), st.just(Oddities()) | oddities)
def test_whatever_is_odd_both_read_the_same_or_we_refuse(found: list[Member], odd: Oddities) -> None:
    check(zip_of(found, odd))


@given(st.data())
def test_whatever_byte_of_the_structure_is_changed_both_read_the_same_or_we_refuse(data: st.DataObject) -> None:
    raw = bytearray(zip_of(PLAIN, Oddities(end64=data.draw(st.sampled_from(["", "also", "only"])))))
    inside = {i for m in PLAIN for i in range(raw.find(m.data), raw.find(m.data) + len(m.data))}
    structure = sorted(set(range(len(raw))) - inside)
    for at in data.draw(st.lists(st.sampled_from(structure), min_size=1, max_size=3)):
        raw[at] = data.draw(st.sampled_from([0, 1, 8, 0x20, 0x41, 0x50, 0xFF]) | st.integers(0, 255))
    check(bytes(raw))
