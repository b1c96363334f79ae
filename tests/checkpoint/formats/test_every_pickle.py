"""Every pickle of a file is judged, wherever it stands: behind the first, in bytes, in other members."""

from __future__ import annotations

import io
import pickle
import struct
import sys
import warnings
import zipfile
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from hostile_files import checkpoint, name, pickle_of, text
from torch import nn

from mvae.checkpoint import CheckpointError, inspect
from mvae.cli import main

EVIL = pickle_of(name("os", "system"), text("true"), b"\x85R")


GOOD = pickle_of(b"}", text("epoch"), b"K\x01s")


def short(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()


def dangers(raw: bytes) -> list[str]:
    return [refusal.name for refusal in inspect(raw).safety.system]


def strict(path: Path) -> int:
    """The exit code of `mvae inspect --strict`."""
    with patch.object(sys, "argv", ["mvae", "inspect", "--strict", str(path)]), pytest.raises(SystemExit) as done:
        main()
    return int(done.value.code or 0)


@pytest.mark.parametrize("prefix", ["torch.distributed.checkpoint.metadata", "__torch__.a", "torch.jit._pickle"])
def test_nothing_passes_by_its_prefix(prefix: str) -> None:
    raw = pickle_of(short(prefix), short("os.system"), b"\x93", short("true"), b"\x85R", protocol=4)
    for members in ({}, {"archive/constants.pkl": b"\x80\x02)."}):
        assert dangers(checkpoint(raw, members)) == [f"{prefix}.os.system"]


def test_every_pickle_of_a_plain_file_is_judged() -> None:
    assert dangers(GOOD + EVIL) == ["os.system"]
    assert dangers(GOOD * 5 + EVIL[:-1]) == ["os.system"]
    assert inspect(GOOD + GOOD).tree == [{"epoch": 1}, {"epoch": 1}]
    assert "first" in inspect(GOOD * 200 + EVIL).safety.unseen[0]


@pytest.mark.parametrize("loader", ["torch.storage _load_from_bytes", "pickle loads", "_pickle loads", "dill loads"])
def test_pickles_inside_bytes_are_judged(loader: str) -> None:
    inner = pickle_of(name("builtins", "eval"), text("1"), b"\x85R")
    for content in (inner, checkpoint(inner)):
        call = name(*loader.split()) + b"B" + struct.pack("<I", len(content)) + content + b"\x85R"
        assert "builtins.eval" in dangers(checkpoint(pickle_of(call, protocol=3)))
        twice = pickle_of(call, protocol=3)
        outer = name("pickle", "loads") + b"B" + struct.pack("<I", len(twice)) + twice + b"\x85R"
        assert "builtins.eval" in dangers(pickle_of(outer, protocol=3))


def test_a_tensor_in_a_plain_pickle_is_no_attack_and_its_bytes_are_looked_into() -> None:
    """`pickle.dump` writes a tensor as a call of `_load_from_bytes` with a whole checkpoint."""
    safety = inspect(pickle.dumps({"w": torch.ones(2)})).safety
    assert not safety.system
    assert not safety.unseen
    assert "looked into" in safety.refused[0].reason


def test_what_cannot_be_followed_is_said() -> None:
    call = name("torch.storage", "_load_from_bytes") + name("a", "b") + b")R\x85R"
    safety = inspect(pickle_of(call)).safety
    assert [refusal.name for refusal in safety.system] == ["torch.storage._load_from_bytes"]
    assert "works out when it is loaded" in safety.unseen[0]
    from mvae.checkpoint.drawing.terminal import safety_nodes

    assert any(node.label == "not looked into:" for node in safety_nodes(inspect(pickle_of(call))))


def test_torchscripts_other_pickles_are_judged(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(nn.Linear(2, 2)).save(path)
    assert not inspect(path).safety.system
    with zipfile.ZipFile(path) as source:
        members = {member: source.read(member) for member in source.namelist()}
    for changed in [
        member for member in members if member.endswith((".pkl", "debug_pkl")) and "data.pkl" not in member
    ]:
        with zipfile.ZipFile(path, "w") as target:
            for member, content in members.items():
                target.writestr(member, EVIL if member == changed else content)
        assert [refusal.name for refusal in inspect(path).safety.system] == ["os.system"], changed


def test_other_pickles_in_a_zip_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """torch does not load them; somebody else may."""
    path = tmp_path / "x.ckpt"
    path.write_bytes(checkpoint(GOOD, {"archive/evil.pkl": EVIL, "archive/good.pkl": GOOD, "archive/x": EVIL}))
    safety = inspect(path).safety
    assert safety.weights_only
    assert {other.name: other.system for other in safety.beside} == {
        "archive/evil.pkl": True,
        "archive/good.pkl": False,
        "archive/x": True,
    }
    assert strict(path) == 1
    assert "os.system" in capsys.readouterr().out
    path.write_bytes(checkpoint(GOOD, {"archive/good.pkl": GOOD}))
    assert strict(path) == 0
    assert "archive/good.pkl" in capsys.readouterr().out


def test_a_second_pickle_behind_the_first_in_a_zip_is_listed() -> None:
    assert [other.system for other in inspect(checkpoint(GOOD + EVIL)).safety.beside] == [True]


def test_a_zip_that_is_no_checkpoint_names_the_pickles_in_it() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("model/config.pkl", EVIL)
    with pytest.raises(CheckpointError, match=r"config\.pkl' is a pickle that calls os\.system"):
        inspect(buffer.getvalue())


def test_a_numpy_file_of_objects_names_what_its_pickle_runs() -> None:
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n"
    raw = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + EVIL
    with pytest.raises(CheckpointError, match=r"calls os\.system"):
        inspect(raw)
