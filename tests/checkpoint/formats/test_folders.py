"""Checkpoints that are folders: those of `torch.distributed.checkpoint` and Hugging Face are read, others named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file
from torch import nn

from mvae.checkpoint import CheckpointError, export, inspect, read, verify
from mvae.checkpoint.formats.detect import Format
from mvae.errors import UnsupportedFileError

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2), "b.weight": torch.full((3,), 7.0)}


def hugging_face(folder: Path) -> Path:
    """As `save_pretrained` writes a model that is larger than one file may be."""
    files = {
        "model-00001-of-00002.safetensors": ["a.weight", "a.bias"],
        "model-00002-of-00002.safetensors": ["b.weight"],
    }
    folder.mkdir()
    for name, keys in files.items():
        save_file({key: TENSORS[key] for key in keys}, folder / name, metadata={"format": "pt"})
    where = {key: name for name, keys in files.items() for key in keys}
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": 44}, "weight_map": where})
    )
    (folder / "config.json").write_text("{}")
    return folder


def test_a_hugging_face_index_with_its_shards_is_one_checkpoint(tmp_path: Path) -> None:
    folder = hugging_face(tmp_path / "model")
    file = inspect(folder)
    assert file.format is Format.SAFETENSORS
    assert {entry.name for entry in file.tensors} == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert (file.array(name) == tensor.numpy()).all()
    assert file.contents.metadata == {"format": "pt"}
    assert sum(file.bytes.values()) == file.size
    assert file.safety.weights_only
    file.to_dict()
    file._repr_html_()
    assert verify(folder).ok
    export(folder, tmp_path / "one.safetensors")
    assert set(read(tmp_path / "one.safetensors").tree) == set(TENSORS)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda f: (f / "model-00002-of-00002.safetensors").unlink(), "which is not there"),
        (lambda f: rewrite(f, {"x": "model-00002-of-00002.safetensors"}), "has no tensor 'x'"),
        (lambda f: rewrite(f, {"b.weight": "model-00001-of-00002.safetensors"}), "has no tensor 'b.weight'"),
        (lambda f: rewrite(f, {"x": "../secret"}), "outside its folder"),
        (lambda f: rewrite(f, {"x": "/etc/passwd"}), "outside its folder"),
        (lambda f: rewrite(f, {"x": 3}), "does not say for each tensor"),
        (lambda f: (f / "model.safetensors.index.json").write_text("[]"), "no 'weight_map'"),
        (lambda f: os.truncate(f / "model-00002-of-00002.safetensors", 90), "cut off"),
    ],
)
def test_a_hugging_face_folder_that_lacks_something_says_what(change: object, why: str, tmp_path: Path) -> None:
    folder = hugging_face(tmp_path / "model")
    change(folder)  # type: ignore[operator]
    with pytest.raises(CheckpointError, match=why):
        read(folder)
    assert not verify(folder).ok


def rewrite(folder: Path, more: dict[str, object]) -> None:
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"] |= more
    path.write_text(json.dumps(index))


def files(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with open(folder / name, "wb") as file:
            torch.save({"module": {}}, file)
    return folder


DEEPSPEED = ("global_step6/mp_rank_00_model_states.pt", "global_step6/zero_pp_rank_0_mp_rank_00_optim_states.pt")


def test_a_deepspeed_folder_is_named_with_the_line_that_joins_it(tmp_path: Path) -> None:
    folder = files(tmp_path / "run", *DEEPSPEED, "zero_to_fp32.py")
    for path in (folder, folder / "global_step6"):
        with pytest.raises(UnsupportedFileError, match="DeepSpeed") as found:
            read(path)
        assert f"`python {folder / 'zero_to_fp32.py'} {folder} OUT`" in str(found.value)
        assert f"`mvae inspect {folder / DEEPSPEED[0]}`" in str(found.value)
    assert read(folder / DEEPSPEED[0]).tree == {"module": {}}


def test_a_deepspeed_folder_without_its_script(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedFileError, match=r"python -m deepspeed\.utils\.zero_to_fp32"):
        read(files(tmp_path / "run", *DEEPSPEED))


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (["pytorch_model.bin.index.json", "pytorch_model-00001-of-00002.bin"], "save_pretrained"),
        (["pytorch_model_fsdp_0/.metadata", "pytorch_model_fsdp_0/__0_0.distcp"], "give 'pytorch_model_fsdp_0' inside"),
        (["__0_0.distcp"], r"no '\.metadata'"),
        (["saved_model.pb", "keras_metadata.pb"], "saved_model.load"),
        (["model.ckpt.index", "model.ckpt.data-00000-of-00001"], "train.load_checkpoint"),
        (["_CHECKPOINT_METADATA"], "Orbax"),
        (["a.txt", "last.ckpt"], r"such as last\.ckpt"),
        (["run/last.ckpt"], r"such as run/last\.ckpt"),
        (["a.txt"], "Give a checkpoint file"),
    ],
)
def test_other_folders_are_called_what_they_are(names: list[str], why: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedFileError, match=why):
        read(files(tmp_path / "folder", *names))


# --- torch.distributed.checkpoint, written by torch


@pytest.mark.filterwarnings("ignore")
def test_a_dcp_folder_of_a_model_and_its_optimizer(tmp_path: Path) -> None:
    from torch.distributed.checkpoint.state_dict import get_state_dict

    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    weights, state = get_state_dict(model, optimizer)
    dcp.save({"model": weights, "optimizer": state, "step": 3}, checkpoint_id=tmp_path, no_dist=True)
    file = inspect(tmp_path)
    assert file.format is Format.SHARDED
    assert file.tree["step"] == 3
    for name, tensor in model.state_dict().items():
        assert (file.tree["model"][name].array() == tensor.numpy()).all()
    moments = file.tree["optimizer"]["state"]["0.weight"]
    assert (moments["exp_avg"].array() == optimizer.state[model[0].weight]["exp_avg"].numpy()).all()
    assert sum(file.bytes.values()) == file.size


FSDP = """
import os, sys, torch, torch.distributed as dist, torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}.meeting", rank=rank, world_size=2)
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3))
if rank == 0:
    torch.save(model.state_dict(), folder + ".pt")
fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
optimizer = torch.optim.AdamW(model.parameters(), 0.01)
weights, state = get_state_dict(model, optimizer)
dcp.save({"model": weights, "optimizer": state, "epoch": 2}, checkpoint_id=folder)
dist.destroy_process_group()
"""


def test_an_fsdp_folder_of_two_processes(tmp_path: Path) -> None:
    """Every tensor is cut in two, and one in an odd number of rows: read, exported and compared to the bit."""
    folder = tmp_path / "fsdp"
    command = [sys.executable, "-W", "ignore", "-c", FSDP]
    processes = [
        subprocess.Popen([*command, str(rank), str(folder)], env=os.environ | {"OMP_NUM_THREADS": "1"})
        for rank in (0, 1)
    ]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    whole = torch.load(tmp_path / "fsdp.pt", weights_only=True)
    assert len(list(folder.glob("*.distcp"))) == 2
    file = inspect(folder)
    tensor = file.tree["model"]["0.weight"]
    assert (tensor.kind, tensor.shape, list(tensor.parts)) == ("sharded", (7, 5), ["[0:4, 0:5]", "[4:7, 0:5]"])
    assert file.tree["epoch"] == 2
    assert sum(file.bytes.values()) == file.size
    assert verify(folder).ok
    export(folder, tmp_path / "one.ckpt", key="model")
    exported = torch.load(tmp_path / "one.ckpt", weights_only=True)
    assert {name: value.tolist() for name, value in exported["model"].items()} == {
        n: v.tolist() for n, v in whole.items()
    }
