"""The structures of a zip file, read and written once for all who need them."""

from __future__ import annotations

import io
import zipfile

import pytest

from mvae.checkpoint.files import zip_structures as zs

KINDS = [zs.LOCAL, zs.ENTRY, zs.END, zs.LOCATOR64, zs.END64, zs.DESCRIPTOR, zs.DESCRIPTOR64]
FIELDS = {zs.LOCAL: 10, zs.ENTRY: 16, zs.END: 7, zs.LOCATOR64: 3, zs.END64: 9, zs.DESCRIPTOR: 3, zs.DESCRIPTOR64: 3}
PAST = 5 << 32
"""A size past 4 GB."""


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: repr(kind.mark))
def test_what_is_written_is_read_back(kind: zs.Structure) -> None:
    numbers = tuple(range(1, FIELDS[kind] + 1))
    raw = b"before" + kind.write(*numbers)
    assert len(raw) == 6 + kind.size
    assert kind.read(raw, 6)[1:] == numbers


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: repr(kind.mark))
def test_what_is_none_or_is_cut_off_or_outside_is_not_read(kind: zs.Structure) -> None:
    raw = kind.write(*range(FIELDS[kind]))
    assert kind.read(b"x" + raw[1:], 0) is None
    assert kind.read(raw[:-1], 0) is None
    for at in (1, kind.size, 1 << 80, -len(raw)):
        assert kind.read(raw, at) is None


def test_a_zip_of_the_standard_library_has_these_structures() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("a/data.pkl", b"12345")
    raw = buffer.getvalue()
    at = zs.find_last(raw, zs.END)
    end = zs.END.read(raw, at)
    assert (end.entries, at + zs.END.size) == (1, len(raw))
    entry = zs.ENTRY.read(raw, end.start)
    local = zs.LOCAL.read(raw, entry.header)
    assert (entry.size, entry.crc32, entry.name_length) == (local.size, local.crc32, local.name_length) != (0, 0, 0)
    assert local.size == 5


def test_the_end_is_only_looked_for_near_the_end() -> None:
    end = zs.END.write(*[0] * 7)
    assert zs.find_last(b"x" * 10 + end + end, zs.END) == 10 + len(end)
    assert zs.find_last(end + bytes(zs.END_WITHIN), zs.END) == -1
    assert zs.find_last(b"", zs.END) == -1


@pytest.mark.parametrize(("size", "header"), [(7, 8), (PAST, 8), (7, PAST), (PAST, PAST), (zs.MAX32, zs.MAX32 - 1)])
def test_sizes_past_four_gigabytes_stand_in_the_extra_field(size: int, header: int) -> None:
    extra = zs.write_sizes64(size, header)
    short = [min(number, zs.MAX32) for number in (size, size, header)]
    assert zs.read_sizes64(b"\x46\x42\x02\x00xx" + extra, *short) == (size, size, header)
    assert bool(extra) == (zs.MAX32 in short)


def test_an_extra_field_that_is_too_short_gives_no_sizes() -> None:
    extra = zs.write_sizes64(PAST, PAST)
    assert zs.read_sizes64(extra[:-1], zs.MAX32, zs.MAX32, zs.MAX32) is None
    one = zs.write_sizes64(7, PAST)
    assert zs.read_sizes64(one, zs.MAX32, zs.MAX32, zs.MAX32) is None


def test_a_descriptor_is_known_by_the_sizes_it_repeats() -> None:
    for kind in (zs.DESCRIPTOR, zs.DESCRIPTOR64):
        raw = kind.write(0xABCD, 5, 9)
        assert zs.read_descriptor(raw, 0, 5, 9) == (0xABCD, kind.size)
        assert zs.read_descriptor(raw, 0, 5, 8) is None
