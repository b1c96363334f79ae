"""The zip reader: where every byte is, and what is refused."""

from __future__ import annotations

import io
import random
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from hostile_files import checkpoint, pickle_of, tensor

from mvae.checkpoint import CheckpointError, inspect, read
from mvae.checkpoint.files.archive import Archive
from mvae.checkpoint.files.source import Source

GOOD = pickle_of(b"}X\x01\x00\x00\x00aK\x01s")


def opened(raw: bytes) -> Archive:
    return Archive(Source.open(raw))


def test_members_are_those_that_zipfile_sees(zoo: dict[str, Path]) -> None:
    archive = Archive(Source.open(zoo["lightning"]))
    with zipfile.ZipFile(zoo["lightning"]) as reference:
        assert list(archive.members) == reference.namelist()
        for info in reference.infolist():
            member = archive.members[info.filename]
            assert (member.size, member.crc32, member.header) == (info.file_size, info.CRC, info.header_offset)
            assert bytes(member.view()) == reference.read(info)


def test_members_and_what_is_between_them_cover_the_file(zoo: dict[str, Path]) -> None:
    archive = Archive(Source.open(zoo["lightning"]))
    position = 0
    for member in sorted(archive.members.values(), key=lambda member: member.header):
        assert member.header == position
        position = member.end
    assert archive.directory == (position, archive.end[0])
    assert archive.end[1] == archive.source.size


def test_torch_aligns_its_data(zoo: dict[str, Path]) -> None:
    archive = Archive(Source.open(zoo["lightning"]))
    assert all(member.offset % 64 == 0 for member in archive.members.values())
    assert sum(member.padding for member in archive.members.values()) > 0


def test_the_root_is_the_folder_torch_chose(tmp_path: Path) -> None:
    torch.save({"a": 1}, tmp_path / "name-v1.ckpt")
    assert Archive(Source.open(tmp_path / "name-v1.ckpt")).root == "name-v1/"
    buffer = io.BytesIO()
    torch.save({"a": 1}, buffer)
    assert opened(buffer.getvalue()).root == "archive/"


def test_a_file_without_checksums_says_so(tmp_path: Path) -> None:
    was = torch.serialization.get_crc32_options()
    try:
        torch.serialization.set_crc32_options(False)
        torch.save({"a": torch.ones(3)}, tmp_path / "x.pt")
    finally:
        torch.serialization.set_crc32_options(was)
    assert not read(tmp_path / "x.pt").has_checksums
    assert inspect(tmp_path / "x.pt").array("a").sum() == 3


def test_a_member_past_four_gigabytes_is_found(tmp_path: Path) -> None:
    """A sparse file: its zip is written by Python, its 5 GB of zeros take no room on the disk."""
    path, size = tmp_path / "large.ckpt", 5 * 2**30
    head = checkpoint(GOOD)
    with zipfile.ZipFile(io.BytesIO(head)) as small:
        small_names = small.namelist()
    with open(path, "wb") as file:
        file.truncate(0)
    with zipfile.ZipFile(path, "w") as archive:
        for member in small_names:
            archive.writestr(member, GOOD if member.endswith("data.pkl") else b"little")
        info = zipfile.ZipInfo("archive/data/9")
        with archive.open(info, "w", force_zip64=True) as out:
            out._fileobj.seek(size, io.SEEK_CUR)  # type: ignore[attr-defined]
            out._file_size = size  # type: ignore[attr-defined]
        archive.writestr("archive/data/10", b"after")
    archive_read = Archive(Source.open(path))
    assert archive_read.members["archive/data/9"].size == size
    after = archive_read.members["archive/data/10"]
    assert after.offset > size
    assert bytes(after.view()) == b"after"


def test_compressed_members_are_read() -> None:
    buffer = io.BytesIO()
    torch.save({"w": torch.arange(100.0)}, buffer)
    repacked = io.BytesIO()
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(repacked, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    file = inspect(repacked.getvalue())
    assert (file.array("w") == torch.arange(100.0).numpy()).all()
    assert file.tensor("w").file_offset is None
    assert sum(file.bytes.values()) == file.size


def test_one_number_is_not_worth_unpacking_a_large_storage() -> None:
    pickle = pickle_of(tensor(shape=b")", stride=b")", numel=1 << 20))
    raw = checkpoint(pickle, {"archive/data/0": bytes(4 << 20)}, compression=zipfile.ZIP_DEFLATED)
    file = inspect(raw)
    with pytest.raises(CheckpointError, match="large compressed storage"):
        file.tree.item()
    assert file.tree.array() == 0
    assert file._repr_html_()


def test_a_bomb_is_not_unpacked() -> None:
    raw = checkpoint(bytes(400 << 20), compression=zipfile.ZIP_DEFLATED, compresslevel=1)
    with pytest.raises(CheckpointError, match="compressed and claims"):
        read(raw)


def test_a_bomb_that_lies_about_its_size_is_not_unpacked() -> None:
    raw = bytearray(checkpoint(bytes(50 << 20), compression=zipfile.ZIP_DEFLATED))
    for at in (raw.find(b"PK\3\4") + 22, raw.find(b"PK\1\2") + 24):
        raw[at : at + 4] = struct.pack("<I", 100)
    with pytest.raises(CheckpointError, match="unpacks to more"):
        read(bytes(raw))


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "a/../../x", "..\\x", "C:\\x", "archive/../../y"])
def test_a_name_that_points_outside_is_refused(name: str) -> None:
    with pytest.raises(CheckpointError, match="points outside"):
        opened(checkpoint(GOOD, {name: b"x"}))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name_are_refused() -> None:
    with pytest.raises(CheckpointError, match="two members named"):
        opened(checkpoint(GOOD, {"archive/version": b"4"}))


def test_overlapping_members_are_refused() -> None:
    raw = bytearray(checkpoint(GOOD, {"archive/data/1": bytes(5000)}))
    entry = raw.rfind(b"PK\1\2")
    header = struct.unpack_from("<I", raw, entry + 42)[0]
    inner = header + 2000
    raw[inner : inner + 44] = raw[header : header + 44]
    struct.pack_into("<I", raw, inner + 18, 100)
    struct.pack_into("<I", raw, inner + 22, 100)
    second = bytearray(raw[entry : raw.find(b"PK\5\6")])
    second[46:60] = b"archive/data/2"
    raw[inner + 30 : inner + 44] = b"archive/data/2"
    struct.pack_into("<II", second, 20, 100, 100)
    struct.pack_into("<I", second, 42, inner)
    end = raw.find(b"PK\5\6")
    raw[end:end] = second
    at = raw.find(b"PK\5\6", end)
    count, size = struct.unpack_from("<H", raw, at + 10)[0], struct.unpack_from("<I", raw, at + 12)[0]
    struct.pack_into("<HHI", raw, at + 8, count + 1, count + 1, size + len(second))
    with pytest.raises(CheckpointError, match="overlap"):
        opened(bytes(raw))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (8, 1, "encrypted"),
        (10, 12, "method 12"),
        (24, 2**31, "bytes stored as"),
        (42, 2**31, "should start at"),
        (28, 60_000, "runs past"),
    ],
)
def test_a_directory_that_lies_is_refused(field: int, value: int, message: str) -> None:
    raw = bytearray(checkpoint(GOOD))
    at = raw.find(b"PK\1\2") + field
    struct.pack_into("<H" if value < 2**16 else "<I", raw, at, value)
    with pytest.raises(CheckpointError, match=message):
        opened(bytes(raw))


def test_a_member_that_reaches_into_the_directory_is_refused() -> None:
    raw = bytearray(checkpoint(GOOD))
    for at in (raw.find(b"PK\1\2") + 20, raw.find(b"PK\1\2") + 24):
        struct.pack_into("<I", raw, at, 2**20)
    with pytest.raises(CheckpointError, match="cut or changed"):
        opened(bytes(raw))


def test_a_local_header_that_reaches_past_the_file_is_refused() -> None:
    raw = bytearray(checkpoint(GOOD))
    struct.pack_into("<H", raw, raw.rfind(b"PK\3\4") + 28, 65_000)
    with pytest.raises(CheckpointError, match="cut or changed"):
        opened(bytes(raw))


def test_a_name_in_the_directory_must_be_the_name_in_the_file() -> None:
    raw = checkpoint(GOOD).replace(b"archive/data.pkl", b"archive/DATA.pkl", 1)
    with pytest.raises(CheckpointError, match="where the file itself says"):
        opened(raw)


def test_a_directory_of_many_members_in_few_bytes_is_refused() -> None:
    raw = bytearray(checkpoint(GOOD))
    struct.pack_into("<HH", raw, raw.rfind(b"PK\5\6") + 8, 60_000, 60_000)
    with pytest.raises(CheckpointError, match="60,000 members"):
        opened(bytes(raw))


def test_flipped_bits_are_a_message_or_a_file(zoo: dict[str, Path]) -> None:
    raw, generator = zoo["lightning"].read_bytes(), random.Random(0)
    for _ in range(300):
        damaged = bytearray(raw)
        damaged[generator.randrange(len(raw))] ^= 1 << generator.randrange(8)
        try:
            file = inspect(bytes(damaged))
        except CheckpointError:
            continue
        assert sum(file.bytes.values()) == file.size
        file.to_dict()


def test_a_wrong_checksum_does_not_keep_the_tree_from_being_read(zoo: dict[str, Path]) -> None:
    file = inspect(zoo["state dict"])
    raw = bytearray(zoo["state dict"].read_bytes())
    offset = file.tensors[0].tensor.file_offset
    assert offset is not None
    raw[offset] ^= 1
    assert inspect(bytes(raw)).keys == file.keys


@pytest.mark.parametrize(("order", "value"), [("little", 1.0), ("big", 4.600602988224807e-41)])
def test_byte_orders(order: str, value: float) -> None:
    buffer = io.BytesIO()
    torch.save(torch.ones(2), buffer)
    new = io.BytesIO()
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(new, "w") as out:
        for name in old.namelist():
            out.writestr(name, order if name.endswith("byteorder") else old.read(name))
    tensor = inspect(new.getvalue()).tree
    assert tensor.array()[0] == value
    assert torch.load(io.BytesIO(new.getvalue()), weights_only=True)[0] == value


def test_an_unknown_byte_order_is_refused() -> None:
    raw = checkpoint(GOOD).replace(b"little", b"middle")
    with pytest.raises(CheckpointError, match="'little' or 'big' was expected"):
        read(raw)
