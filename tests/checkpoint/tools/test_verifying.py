"""Whether a checkpoint is whole: what `torch.load` does not notice must be noticed here, and named."""

from __future__ import annotations

import io
import json
import os
import zipfile
from itertools import islice
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from hostile_files import bombs, calls, checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from mvae.checkpoint import CheckpointError, inspect, read, verify
from mvae.checkpoint.pickled.values import Tensor
from mvae.checkpoint.tools.value_changes import value_changes

CASES = 20_000 if os.environ.get("HYPOTHESIS_PROFILE") == "nightly" else 400


def model() -> dict[str, object]:
    """Two layers that share a bias, and two numbers."""
    torch.manual_seed(0)
    bias = torch.randn(5)
    return {
        "state_dict": {"a.weight": torch.randn(20, 5), "a.bias": bias, "b.bias": bias, "b.weight": torch.randn(5, 20)},
        "epoch": 3,
        "lr": 0.1,
    }


@pytest.fixture(scope="module")
def raw() -> bytes:
    buffer = io.BytesIO()
    torch.save(model(), buffer)
    return buffer.getvalue()


def flipped(raw: bytes, at: int, bit: int = 0) -> bytes:
    changed = bytearray(raw)
    changed[at] ^= 1 << bit
    return bytes(changed)


def test_every_real_checkpoint_is_whole(zoo: dict[str, Path]) -> None:
    for name, path in zoo.items():
        found = verify(path)
        assert found.ok, (name, found)
        assert found.checksums == (name != "legacy"), name
        assert found.tensors == len(inspect(path).tensors)
        json.dumps(found.to_dict(), allow_nan=False)


def test_a_flipped_bit_that_torch_loads_in_silence_is_named(raw: bytes) -> None:
    at = inspect(raw).tensor("a.bias").file_offset
    assert at is not None
    changed = flipped(raw, at, 6)
    torch.load(io.BytesIO(changed), weights_only=True)
    found = verify(changed)
    assert not found.ok
    (damage,) = found.damage
    assert damage.where == "archive/data/1"
    assert damage.tensors == ["state_dict.a.bias", "state_dict.b.bias"], "both that lie there"
    assert "state_dict.b.bias" in str(found)


def test_a_long_list_is_folded() -> None:
    buffer = io.BytesIO()
    torch.save({"w": [torch.full((4,), float(i)) for i in range(30)]}, buffer)
    changed = bytearray(buffer.getvalue())
    for entry in inspect(bytes(changed)).tensors:
        changed[entry.tensor.file_offset or 0] ^= 1
    found = verify(bytes(changed))
    assert len(found.damage) == 30
    assert str(found).count("CRC-32") == 20
    assert "… 10 more" in str(found)


def test_without_checksums_it_says_so(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(model(), tmp_path / "x.ckpt")
    finally:
        torch.serialization.set_crc32_options(True)
    found = verify(tmp_path / "x.ckpt")
    assert found.ok
    assert not found.checksums
    assert "without checksums" in str(found)


def test_a_cut_file_is_damaged_and_says_what_to_do(raw: bytes) -> None:
    found = verify(raw[: len(raw) // 2])
    assert not found.ok
    assert "cut off" in str(found)
    assert "mvae salvage" in str(found)


def test_damage_to_the_pickle_still_lets_the_rest_be_checked(raw: bytes) -> None:
    at = raw.index(b"_rebuild_tensor_v2")
    found = verify(flipped(flipped(raw, at, 7), inspect(raw).tensor("a.weight").file_offset or 0))
    assert {damage.where for damage in found.damage} >= {"archive/data.pkl", "archive/data/0"}


def test_a_repacked_zip(raw: bytes, tmp_path: Path) -> None:
    """As `zip` writes it: sizes in the headers, compressed or not."""
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(io.BytesIO(raw)) as old, zipfile.ZipFile(tmp_path / "x.ckpt", "w", method) as new:
            for member in old.namelist():
                new.writestr(member, old.read(member))
        whole = (tmp_path / "x.ckpt").read_bytes()
        assert verify(tmp_path / "x.ckpt").ok
        assert not verify(flipped(whole, whole.index(b"data/0") + 20)).ok
        assert not verify(flipped(whole, whole.index(b"PK\3\4") + 14)).ok, "the checksum in a header"


def test_other_formats(raw: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.ones(3), "b": torch.zeros(2, 2)}, path)
    found = verify(path)
    assert found.ok
    assert any("safetensors has no checksums" in note for note in found.notes)
    path.write_bytes(path.read_bytes()[:-1])
    assert not verify(path).ok
    path.write_bytes(path.read_bytes() + b"more")
    assert not verify(path).ok
    torch.save({"a": torch.ones(3)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    old = (tmp_path / "old.pt").read_bytes()
    assert verify(old).ok
    assert not verify(old[:-1]).ok
    assert not verify(old + b"x").ok
    assert not verify(raw + b"x" * 30).ok, "what stands after the end of a zip"


def test_a_sharded_folder(tmp_path: Path) -> None:
    folder = tmp_path / "sharded"
    dcp.save({"state_dict": model()["state_dict"], "epoch": 3}, checkpoint_id=str(folder), no_dist=True)
    assert verify(folder).ok
    (piece,) = folder.glob("*.distcp")
    at = inspect(folder).tensor("a.bias").file_offset or 0
    piece.write_bytes(flipped(piece.read_bytes(), at))
    found = verify(folder)
    assert [damage.tensors for damage in found.damage] == [["state_dict.a.bias"]]
    piece.unlink()
    assert not verify(folder).ok


def test_what_is_no_checkpoint_is_an_error(tmp_path: Path) -> None:
    for content in (b"hello", b"GGUF1234", b""):
        path = tmp_path / "x"
        path.write_bytes(content)
        with pytest.raises(CheckpointError):
            verify(path)
    with zipfile.ZipFile(tmp_path / "x.docx", "w") as archive:
        archive.writestr("word/document.xml", "x")
    for path in (tmp_path / "x.docx", tmp_path / "missing", tmp_path):
        with pytest.raises(CheckpointError):
            verify(path)


def test_progress_is_told_and_memory_is_flat(raw: bytes, tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(3_000_000)}, tmp_path / "x.ckpt")
    steps: list[int] = []
    assert verify(tmp_path / "x.ckpt", steps.append).ok
    assert max(steps) <= 1 << 20
    assert 12_000_000 < sum(steps) < 12_001_000


def test_a_file_cut_while_it_is_read_is_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"w": torch.zeros(3_000_000)}, tmp_path / "x.ckpt")
    found = verify(tmp_path / "x.ckpt", lambda _: os.truncate(tmp_path / "x.ckpt", 5_000_000))
    assert "was cut to 5,000,000 bytes while it was read" in str(found)


def test_hostile_files_end() -> None:
    for _, pickle in calls():
        assert verify(checkpoint(pickle)).checksums
    for name, pickle in islice(bombs(5), 8):  # those that are quick to make
        assert str(verify(checkpoint(pickle))), name


def _same(a: bytes, b: bytes) -> bool:
    """Whether two files hold the same values and tensors, to the bit."""
    left, right = inspect(a), inspect(b)
    if value_changes(left.tree, right.tree) or [e.name for e in left.tensors] != [e.name for e in right.tensors]:
        return False
    pairs = ((p.tensor, q.tensor) for p, q in zip(left.tensors, right.tensors, strict=True))
    return all(_content(p) == _content(q) for p, q in pairs)


def _content(tensor: Tensor) -> tuple[object, ...]:
    return tensor.dtype, tensor.shape, tensor.stride, tensor.requires_grad, tensor.array().tobytes()


@given(st.data())
@settings(max_examples=CASES, deadline=None)
def test_whatever_bit_is_flipped_a_file_that_passes_is_the_same_file(raw: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(raw) - 1))
    changed = flipped(raw, at, data.draw(st.integers(0, 7)))
    try:
        found = verify(changed)
    except CheckpointError:
        return
    assert not found.ok or _same(raw, changed)
    read(raw)


@given(st.integers(0, 10_000))
@settings(max_examples=CASES // 4, deadline=None)
def test_wherever_it_is_cut_it_does_not_pass(raw: bytes, length: int) -> None:
    try:
        assert not verify(raw[: length % len(raw)]).ok
    except CheckpointError:
        assert length % len(raw) < 4


def test_a_folder_is_told_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="Give a checkpoint file"):
        verify(tmp_path)


def test_a_folder_says_which_of_it_has_no_checksum(tmp_path: Path) -> None:
    dcp.save({"w": torch.ones(3)}, checkpoint_id=str(tmp_path / "folder"), no_dist=True)
    note = " ".join(verify(tmp_path / "folder").notes)
    assert "1 piece without a checksum" in note
    assert "`.metadata`" in note
    assert "skip_data" not in note


def test_headers_that_a_zip_program_wrote_for_large_files_are_no_damage(tmp_path: Path) -> None:
    torch.save({"a": torch.arange(5.0)}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as old, zipfile.ZipFile(tmp_path / "b.pt", "w") as new:
        for member in old.infolist():
            with new.open(member.filename, "w", force_zip64=True) as file:
                file.write(old.read(member))
    assert torch.equal(torch.load(tmp_path / "b.pt", weights_only=True)["a"], torch.arange(5.0))
    assert verify(tmp_path / "b.pt").ok
    raw = bytearray((tmp_path / "b.pt").read_bytes())
    raw[raw.index(b"data.pkl") + len("data.pkl") + 4] ^= 1  # the size in the field for large files
    (tmp_path / "b.pt").write_bytes(raw)
    assert not verify(tmp_path / "b.pt").ok
