"""Folders of `torch.distributed.checkpoint`: read to the bit, and what is missing is named."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp

from mvae.checkpoint import CheckpointError, inspect, read
from mvae.checkpoint.formats.detect import Format


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
