"""Which kind of file it is, and a plain word for a file that is none."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest
import torch

from mvae.checkpoint import CheckpointError, CheckpointNotFoundError, inspect, read
from mvae.checkpoint.formats.detect import Format


def test_a_safetensors_file_shows_its_header(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    tensors = {
        "a": torch.arange(6.0).reshape(2, 3),
        "b": torch.ones(2, dtype=torch.bfloat16),
        "c": torch.tensor(7, dtype=torch.int64),
        "d": torch.tensor([True]),
        "e": torch.empty(0),
    }
    save_file(tensors, tmp_path / "x.safetensors", metadata={"who": "me"})
    file = inspect(tmp_path / "x.safetensors")
    assert file.format is Format.SAFETENSORS
    assert file.contents.metadata == {"who": "me"}
    assert sum(file.bytes.values()) == file.size
    assert (file.array("a") == tensors["a"].numpy()).all()
    assert file.tensor("c").item() == 7
    assert file.tensor("b").item if file.tensor("b").numel == 1 else True
    assert {entry.tensor.dtype for entry in file.tensors} == {"float32", "bfloat16", "int64", "bool"}
    assert [fact.value for fact in file.facts if fact.name == "contents"] == ["weights"]


@pytest.mark.parametrize(
    "header",
    [
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,9999]}}',
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[4,0]}}',
        b'{"a":{"dtype":"F99","shape":[2],"data_offsets":[0,8]}}',
        b'{"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}',
        b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,8]}}',
        b'{"a":{"dtype":"F32","shape":["x"],"data_offsets":[0,8]}}',
        b'{"a":{"dtype":"F32","shape":2,"data_offsets":[0,8]}}',
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0.5,8]}}',
        b'{"a":[]}',
        b"{not json}",
        b'{"a":' + b"[" * 100_000,
        b"{}" + b" " * 8,
        b'{"__metadata__":[]}',
    ],
)
def test_a_safetensors_header_that_lies_is_a_message(header: bytes) -> None:
    raw = len(header).to_bytes(8, "little") + header + bytes(8)
    try:
        assert inspect(raw).tensors == []
    except CheckpointError as error:
        assert str(error).endswith(".")  # noqa: PT017


@pytest.mark.parametrize(
    ("head", "word"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"\x1f\x8b\x08\x00", "gzip"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"GGUF\x03\x00\x00\x00", "GGUF"),
        (b"\x93NUMPY\x01\x00", "numpy.load"),
        (b"hello, world", "not a checkpoint"),
        (b"\x00" * 64, "not a checkpoint"),
        (b"\x80", "not a checkpoint"),
        (b"P", "not a checkpoint"),
    ],
)
def test_other_files_are_called_what_they_are(head: bytes, word: str) -> None:
    with pytest.raises(CheckpointError, match=word):
        read(head)


def test_a_tar_says_which_pytorch_wrote_it(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "old.pt", "w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.raises(CheckpointError, match="tar archive"):
        read(tmp_path / "old.pt")


def test_an_empty_file_and_a_missing_one_and_a_folder(tmp_path: Path) -> None:
    (tmp_path / "empty.ckpt").touch()
    with pytest.raises(CheckpointError, match="is empty"):
        read(tmp_path / "empty.ckpt")
    with pytest.raises(CheckpointNotFoundError, match="does not exist"):
        read(tmp_path / "missing.ckpt")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="not a plain file"):
        read(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match=r"such as empty\.ckpt"):
        read(tmp_path)
