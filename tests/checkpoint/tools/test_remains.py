"""What is found of a damaged file, by whichever of its descriptions still stands."""

from __future__ import annotations

import io
import zipfile

import pytest
import torch
from salvaged import Known, all_right, contents, rescued, saved, training

from mvae.checkpoint import inspect, salvage
from mvae.errors import NothingToSaveError


@pytest.fixture(scope="module")
def raw() -> bytes:
    return saved(training())


@pytest.fixture(scope="module")
def known(raw: bytes) -> Known:
    return contents(raw)


def test_damage_to_one_of_two_descriptions_costs_nothing(raw: bytes, known: Known) -> None:
    """A zip says everything twice. Headers, descriptors, directory: any may be wiped out."""
    directory = raw.index(b"PK\1\2")
    wiped = [raw[:directory] + bytes(len(raw) - directory)]
    for mark in (b"PK\3\4", b"PK\7\b"):
        place = raw.index(b"data/5")
        at = raw.index(mark, place - 40 if mark == b"PK\3\4" else place)
        wiped += [raw[:at] + bytes(30 if mark == b"PK\3\4" else 16) + raw[at + (30 if mark == b"PK\3\4" else 16) :]]
    wiped.append(b"\0\0\0\0" + raw[4:])
    for broken in wiped:
        found, out = rescued(broken)
        all_right(found, out, known)
        assert found.complete


def test_bytes_lost_or_added_in_the_middle(raw: bytes, known: Known) -> None:
    at = inspect(raw).tensor("layer.5.weight").file_offset or 0
    for broken in (raw[:at] + raw[at + 100 :], raw[:at] + bytes(100) + raw[at:], raw[:at] + raw[at + 4000 :]):
        found, out = rescued(broken)
        all_right(found, out, known)
        assert "state_dict.layer.4.weight" in found.kept
        assert "state_dict.layer.5.weight" in {lost.name for lost in found.lost}
        assert "state_dict.bias" in found.kept or len(broken) < len(raw) - 3000


def test_a_repacked_zip(raw: bytes, known: Known) -> None:
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        packed = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(raw)) as old, zipfile.ZipFile(packed, "w", method) as new:
            for member in old.namelist():
                new.writestr(member, old.read(member))
        found, out = rescued(packed.getvalue())
        all_right(found, out, known)
        assert found.complete
        if method == zipfile.ZIP_STORED:
            found, out = rescued(packed.getvalue()[: len(packed.getvalue()) * 3 // 4])
            all_right(found, out, known)
            assert len(found.kept) > 10


def test_files_of_old_versions_in_the_order_of_the_alphabet(known: Known) -> None:
    """PyTorch 2.0 and older wrote data/0, data/1, data/10, data/11, …, data/2."""
    from mvae.checkpoint.formats.zip_writer import ZipWriter

    buffer = io.BytesIO()
    writer = ZipWriter(buffer)
    with zipfile.ZipFile(io.BytesIO(saved(training()))) as old:
        names = [name.partition("/")[2] for name in old.namelist()]
        storages = sorted(name for name in names if name.startswith("data/"))
        for name in ["data.pkl", *storages, "version"]:
            content = old.read(f"archive/{name}")
            writer.add(name, len(content), [content])
    writer.close()
    raw = buffer.getvalue()
    for broken in (raw[: len(raw) * 2 // 3], raw[:-1]):
        found, out = rescued(broken)
        all_right(found, out, known)
        assert len([name for name in found.kept if name.startswith("state_dict")]) > 5


def test_a_zip_in_a_folder_of_another_zip_is_not_taken_for_it() -> None:
    nested = io.BytesIO()
    with zipfile.ZipFile(nested, "w") as outer:
        outer.writestr("run/notes.txt", "x" * 100)
        outer.writestr("run/a.pt", saved({"w": torch.ones(9)}))
        outer.writestr("run/b.pt", saved({"w": torch.ones(900)}))
    with pytest.raises(NothingToSaveError, match=r"begins with 'run/notes\.txt'"):
        salvage(nested.getvalue()[:-300], io.BytesIO())
