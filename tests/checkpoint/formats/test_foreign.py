"""Files that are no checkpoints are called what they are, with what to do next."""

from __future__ import annotations

import io
import json
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from mvae.checkpoint import CheckpointError, read, verify
from mvae.errors import UnsupportedFileError


def refusal(what: Path | bytes) -> str:
    """The message; none of these is called damaged."""
    with pytest.raises(UnsupportedFileError) as found:
        read(what)
    with pytest.raises(CheckpointError):
        verify(what)
    return str(found.value)


def zip_of(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def test_a_zip_of_stable_baselines3_names_the_checkpoints_in_it(tmp_path: Path) -> None:
    """`policy.zip`: the line that is offered works."""
    members = {
        "data": b"{}",
        "pytorch_variables.pth": saved({}),
        "policy.pth": saved({"w": torch.randn(100, 100)}),
        "policy.optimizer.pth": saved({"w": torch.randn(10, 10)}),
        "_stable_baselines3_version": b"2.3.2",
    }
    path = tmp_path / "policy.zip"
    path.write_bytes(zip_of(**members))
    said = refusal(path)
    assert "stable-baselines3" in said
    assert "pytorch_variables.pth, policy.pth, policy.optimizer.pth" in said
    assert f"`unzip {path} policy.pth` and `mvae inspect policy.pth`" in said
    with zipfile.ZipFile(path) as archive:
        archive.extract("policy.pth", tmp_path)
    assert read(tmp_path / "policy.pth").tree["w"].shape == (100, 100)


def test_any_zip_with_checkpoints_in_it_names_them() -> None:
    said = refusal(zip_of(**{"readme.txt": b"x", "run/last.ckpt": saved({}), "run/model.safetensors": b""}))
    assert "run/last.ckpt, run/model.safetensors" in said


@pytest.mark.filterwarnings("ignore")
def test_a_pt2_of_today(tmp_path: Path) -> None:
    program = torch.export.export(nn.Linear(2, 2), (torch.ones(1, 2),))
    torch.export.save(program, tmp_path / "x.pt2")
    assert "`torch.export.load`" in refusal(tmp_path / "x.pt2")
    torch.save(torch.export.load(tmp_path / "x.pt2").state_dict, tmp_path / "x.pt")  # the advice
    assert read(tmp_path / "x.pt").tree["weight"].shape == (2, 2)


def test_a_pt2_of_2023() -> None:
    members = {"version": b"1", "serialized_exported_program.json": b"{}", "serialized_state_dict.pt": saved({})}
    assert "`torch.export.load`" in refusal(zip_of(**members))


def test_a_torch_package(tmp_path: Path) -> None:
    with torch.package.PackageExporter(str(tmp_path / "x.pt")) as exporter:
        exporter.intern("**")
        exporter.save_pickle("model", "model.pkl", {"a": 1})
    said = refusal(tmp_path / "x.pt")
    assert "PackageImporter" in said
    assert torch.package.PackageImporter(str(tmp_path / "x.pt")).load_pickle("model", "model.pkl") == {"a": 1}


def test_numpy_files(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.ones(3))
    np.save(tmp_path / "x.npy", np.ones(3))
    for name in ("x.npz", "x.npy"):
        assert "`numpy.load`" in refusal(tmp_path / name)


@pytest.mark.filterwarnings("ignore")
def test_a_tar_of_2016_which_torch_still_reads(tmp_path: Path) -> None:
    parts = {
        "sys_info": pickle.dumps({"little_endian": True}, 2),
        "pickle": pickle.dumps({"a": 1}, 2),
        "storages": pickle.dumps(0, 2) + pickle.dumps([], 2),
        "tensors": pickle.dumps(0, 2),
    }
    with tarfile.open(tmp_path / "old.pt", "w") as archive:
        for name, content in parts.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    said = refusal(tmp_path / "old.pt")
    assert "before 0.1.10" in said
    assert "`torch.load(path, weights_only=False)` still reads it" in said
    assert torch.load(tmp_path / "old.pt", weights_only=False) == {"a": 1}


def test_another_tar_says_what_is_in_it(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.nemo", "w") as archive:
        archive.addfile(tarfile.TarInfo("model_config.yaml"), io.BytesIO())
    assert "begins with 'model_config.yaml'" in refusal(tmp_path / "x.nemo")


class NumpyArrayWrapper:
    """As joblib has it: stands in the pickle where an array follows."""


def test_a_file_of_joblib() -> None:
    NumpyArrayWrapper.__module__ = "joblib.numpy_pickle"
    raw = pickle.dumps([1], 4).replace(b"K\x01", b"cjoblib.numpy_pickle\nNumpyArrayWrapper\n)\x81" + b"\xff" * 64)
    assert "`joblib.load`" in refusal(raw)
    assert "`joblib.load`" in refusal(b"\x78\x9c" + b"x" * 20)


def varint(number: int) -> bytes:
    return bytes([number & 0x7F | 0x80 if number > 0x7F else number]) + (varint(number >> 7) if number > 0x7F else b"")


def field(number: int, content: bytes | int) -> bytes:
    """A field of a protocol buffer message."""
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


@pytest.mark.parametrize("version", [1, 3, 7, 8, 10, 13, 200])
@pytest.mark.parametrize("order", [(1, 2, 3, 7, 8), (1, 7, 8), (8, 1, 7), (1, 5, 7, 14, 8), (1, 8, 25)])
def test_onnx_of_any_version(version: int, order: tuple[int, ...]) -> None:
    contents = {
        1: version,
        2: b"pytorch",
        3: b"2.9",
        5: 0,
        7: field(2, b"main") * 300,
        8: field(2, 17),
        14: b"",
        25: b"",
    }
    assert "`onnx.load`" in refusal(b"".join(field(number, contents[number]) for number in order))


def test_mindspore() -> None:
    tensor = field(1, 3) + field(2, b"Float32") + field(3, bytes(12))
    raw = field(1, field(1, b"conv1.weight") + field(2, tensor)) + field(1, field(1, b"bias") + field(2, tensor))
    assert "`mindspore.load_checkpoint`" in refusal(raw)


def test_msgpack() -> None:
    assert "msgpack" in refusal(b"\x81\xa6params\x81\xa5layer\x01")
    assert "msgpack" in refusal(b"\xde\x00\x20\xd9\x28" + b"k" * 40 + b"\x01")


def test_text() -> None:
    assert "YAML" in refusal(yaml.dump({"lr": 0.1, "names": ["a"]}).encode())
    assert "JSON" in refusal(json.dumps({"lr": 0.1}).encode())
    assert "begins with 'I am a text.'" in refusal(b"I am a text.\nOf two lines.")
    assert "begins with '(so) it is.'" in refusal(b"(so) it is.")
    assert "begins with 'épochs'" in refusal(("épochs\n" + "é" * 700).encode())
    index = {"metadata": {"total_size": 8}, "weight_map": {"w": "model-00001-of-00002.safetensors"}}
    assert "give the folder" in refusal(json.dumps(index).encode())


@pytest.mark.parametrize(
    ("head", "word"),
    [
        (b"GGUF\x03\x00\x00\x00", "GGUF"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"PYTORCH1" + bytes(50), "container of 2018"),
        (struct.pack("<Q", 5) + b"xxxxx", "neither a zip"),
    ],
)
def test_by_their_first_bytes(head: bytes, word: str) -> None:
    assert word in refusal(head)


@pytest.mark.parametrize("value", [[1, "a"], {"a": (1, 2.5)}, (None, True), "text\nof two lines.", 2.5, 10**30, {1, 2}])
@pytest.mark.parametrize("protocol", [0, 1])
def test_a_pickle_without_a_beginning_of_its_own_is_no_text(value: object, protocol: int) -> None:
    assert read(pickle.dumps(value, protocol)).tree == value
