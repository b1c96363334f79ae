"""A file as one read-only buffer, and the pieces of it."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import pytest

from mvae.checkpoint.files import source
from mvae.checkpoint.files.source import DEFLATED, Record, Source
from mvae.errors import CheckpointError, CheckpointNotFoundError


def deflated(content: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(content) + packer.flush()


def record_of(content: bytes, claimed: int) -> Record:
    """A compressed piece that claims to hold so many bytes, with others before and behind it."""
    packed = deflated(content)
    return Record(Source.open(b"abc" + packed + b"xyz"), "w", 3, claimed, stored=len(packed), method=DEFLATED)


def test_a_file_is_mapped_and_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    path.write_bytes(b"0123456789")
    opened = Source.open(path)
    assert (opened.size, bytes(opened.data), opened.name) == (10, b"0123456789", str(path))
    with pytest.raises(TypeError, match="read-only"):
        opened.data[0] = 0
    opened.forget()
    assert bytes(opened.data) == b"0123456789"


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_bytes_in_memory_are_wrapped_and_not_copied(kind: type) -> None:
    mine = bytearray(b"0123456789")
    opened = Source.open(mine if kind is bytearray else memoryview(mine))
    mine[0] = ord("x")
    assert bytes(opened.data) == b"x123456789"
    assert opened.data.readonly


def test_elements_of_another_size_are_counted_in_bytes() -> None:
    assert Source.open(memoryview(bytearray(8)).cast("i")).size == 8


def test_what_cannot_be_mapped_says_why(tmp_path: Path) -> None:
    (tmp_path / "empty.ckpt").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"empty\.ckpt is empty: nothing was written to it"):
        Source.open(tmp_path / "empty.ckpt")
    with pytest.raises(CheckpointNotFoundError, match=r"gone\.ckpt does not exist"):
        Source.open(tmp_path / "gone.ckpt")
    with pytest.raises(CheckpointError, match="is not a plain file"):
        Source.open(tmp_path)
    with pytest.raises(CheckpointError, match="cannot be read: embedded null byte"):
        Source.open("a\0b")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes of POSIX")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="is not a plain file"):
        Source.open(tmp_path / "pipe")


def test_a_stored_piece_is_a_view_of_the_file() -> None:
    mine = bytearray(b"0123456789")
    view = Record(Source.open(mine), "w", 2, 4).view()
    mine[2] = ord("x")
    assert bytes(view) == b"x345"


def test_a_compressed_piece_is_unpacked() -> None:
    assert bytes(record_of(b"a" * 5000, 5000).view()) == b"a" * 5000


@pytest.mark.parametrize(("claimed", "found"), [(4999, "more"), (5001, "5,000")])
def test_a_compressed_piece_that_lies_about_its_size_is_refused(claimed: int, found: str) -> None:
    with pytest.raises(CheckpointError, match=f"'w' claims {claimed:,} bytes and unpacks to {found}"):
        record_of(b"a" * 5000, claimed).view()


def test_a_compressed_piece_that_claims_too_much_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source.zlib, "decompressobj", lambda *_: pytest.fail("it was unpacked"))
    with pytest.raises(CheckpointError, match="repack the file without compression"):
        record_of(b"a", source.MAX_INFLATED + 1).view()


def test_a_compressed_piece_that_is_damaged_says_so() -> None:
    piece = Record(Source.open(b"\xff" * 20), "w", 0, 100, stored=20, method=DEFLATED)
    with pytest.raises(CheckpointError, match="'w' is compressed and damaged"):
        piece.view()
