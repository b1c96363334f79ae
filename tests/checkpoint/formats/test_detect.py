"""Which kind of file it is, and a plain word for a file that is none."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from hostile_files import checkpoint, pickle_of
from torch import nn

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


def test_torchscript_is_recognised(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(nn.Sequential(nn.Linear(3, 4), nn.ReLU())), tmp_path / "x.pt")
    file = inspect(tmp_path / "x.pt")
    assert file.format is Format.TORCHSCRIPT
    assert [entry.tensor.shape for entry in file.tensors] == [(4, 3), (4,)]
    assert file.bytes["code"] > 0
    assert sum(file.bytes.values()) == file.size
    assert "TorchScript" in file.safety.obstacles[0]


def test_the_legacy_format_is_read_to_the_bit(zoo: dict[str, Path]) -> None:
    file = inspect(zoo["legacy"])
    assert file.format is Format.LEGACY
    reference = torch.load(zoo["legacy"], weights_only=False)
    assert (file.array("t") == reference["t"].numpy()).all()
    assert (file.array("m._modules.0._parameters.weight") == reference["m"][0].weight.detach().numpy()).all()


def test_a_legacy_file_cut_off_says_so(zoo: dict[str, Path]) -> None:
    raw = zoo["legacy"].read_bytes()
    for length in range(20, len(raw), 97):
        with pytest.raises(CheckpointError, match=r"cut off|claims a string|line that does not end"):
            read(raw[:length])


def test_a_plain_pickle_is_recognised() -> None:
    file = inspect(pickle.dumps({"a": [1, 2], "n": np.float32(2)}))
    assert file.format is Format.PICKLE
    assert file.tree["a"] == [1, 2]
    assert file.tree["n"].value == 2
    assert file.bytes == {"pickle": file.size}


@pytest.mark.parametrize("protocol", range(6))
def test_a_plain_pickle_of_any_protocol(protocol: int) -> None:
    assert read(pickle.dumps({"a": 1}, protocol)).tree == {"a": 1}


def shards(folder: Path) -> dict[str, torch.Tensor]:
    state = {"w": torch.arange(20.0).reshape(4, 5), "b": torch.arange(3)}
    dcp.save({"state_dict": state, "epoch": 3, "hp": {"lr": 0.1}}, checkpoint_id=str(folder), no_dist=True)
    return state


@pytest.mark.filterwarnings("ignore")
def test_a_sharded_folder_is_read_to_the_bit(tmp_path: Path) -> None:
    state = shards(tmp_path)
    torch.save({"pytorch-lightning_version": "2.6", "hyper_parameters": {"lr": 1.0}}, tmp_path / "meta.pt")
    file = inspect(tmp_path)
    assert file.format is Format.SHARDED
    assert file.tree["epoch"] == 3
    assert file.tree["hp"] == {"lr": 0.1}
    assert file.tree["hyper_parameters"] == {"lr": 1.0}
    assert (file.array("w") == state["w"].numpy()).all()
    assert (file.array("b") == state["b"].numpy()).all()
    assert sum(file.bytes.values()) == file.size == sum(path.stat().st_size for path in tmp_path.iterdir())
    assert not file.safety.weights_only


@pytest.mark.filterwarnings("ignore")
def test_a_tensor_in_pieces_names_them(tmp_path: Path) -> None:
    """`torch.distributed.checkpoint` can be told to save one tensor as two chunks, without a process group."""
    from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex

    shards(tmp_path)
    directory = pickle.loads((tmp_path / ".metadata").read_bytes())
    whole = directory.state_dict_metadata.pop("state_dict.w")
    first = next(iter(directory.storage_data))
    where = directory.storage_data
    half = torch.Size([2, 5])
    whole.chunks = [ChunkStorageMetadata(torch.Size([0, 0]), half), ChunkStorageMetadata(torch.Size([2, 0]), half)]
    whole.size = torch.Size([8, 5])
    info = where.pop(next(index for index in where if index.fqn == "state_dict.w"))
    for start in (0, 4):
        where[MetadataIndex("state_dict.w", torch.Size([start, 0]))] = info
    directory.state_dict_metadata["state_dict.w"] = whole
    (tmp_path / ".metadata").write_bytes(pickle.dumps(directory))
    tensor = read(str(tmp_path)).tree["state_dict"]["w"]
    assert (tensor.kind, tensor.shape, first is not None) == ("sharded", (8, 5), True)
    assert list(tensor.parts) == ["[0:4, 0:5]", "[4:8, 0:5]"]


@pytest.mark.filterwarnings("ignore")
def test_a_sharded_folder_that_lacks_something_says_what(tmp_path: Path) -> None:
    shards(tmp_path)
    shard = next(tmp_path.glob("*.distcp"))
    with pytest.raises(CheckpointError, match="inspect the folder"):
        read(shard)
    raw = shard.read_bytes()
    shard.write_bytes(raw[:-100])
    with pytest.raises(CheckpointError, match="cut off"):
        read(tmp_path)
    shard.unlink()
    with pytest.raises(CheckpointError, match="which is not there"):
        read(tmp_path)
    (tmp_path / ".metadata").unlink()
    shard.write_bytes(raw)
    with pytest.raises(CheckpointError, match=r"no '\.metadata'"):
        read(tmp_path)


def test_a_sharded_folder_cannot_point_outside_itself(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    inside = tmp_path / "folder"
    inside.mkdir()
    info = {"relative_path": "../secret", "offset": 0, "length": 1}
    (inside / ".metadata").write_bytes(
        pickle.dumps({"state_dict_metadata": {"a": {}}, "storage_data": {_Key("a"): info}, "planner_data": {}}, 2)
    )
    with pytest.raises(CheckpointError):
        read(inside)


class _Key:
    def __init__(self, fqn: str) -> None:
        self.fqn = fqn


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


def test_another_zip_says_what_is_in_it(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("readme.txt", "x")
    with pytest.raises(CheckpointError, match=r"without a 'data.pkl'.*readme\.txt"):
        read(tmp_path / "x.zip")


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


def test_a_storage_that_is_not_there_says_so() -> None:
    from hostile_files import tensor

    raw = checkpoint(pickle_of(tensor())).replace(b"archive/data/0", b"archive/data/7")
    with pytest.raises(CheckpointError, match="no such member"):
        read(raw)
