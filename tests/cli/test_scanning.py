"""Several files and folders at once: a line each, a count, and one exit code."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint
from hostile_files import calls, checkpoint
from safetensors.torch import save_file

from mvae.checkpoint import inspect

Run = Callable[..., Any]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two sound checkpoints, one of them in a folder below, a sharded one, and two files that are none."""
    (tmp_path / "runs").mkdir()
    torch.save({"state_dict": {"a": torch.arange(100.0)}}, tmp_path / "a.ckpt")
    torch.save({"state_dict": {"b": torch.ones(3)}}, tmp_path / "runs" / "weights")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.distributed.checkpoint.save({"w": torch.ones(3)}, checkpoint_id=tmp_path / "runs" / "sharded")
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "runs" / "empty").touch()
    return tmp_path


def damage(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[inspect(path).tensor("a").file_offset or 0] ^= 1
    path.write_bytes(raw)


def test_every_checkpoint_in_a_folder_is_one_line(mvae: Run, folder: Path) -> None:
    done = mvae("verify", folder)
    assert (done.code, done.err) == (0, "")
    *lines, count = done.out.splitlines()
    expected = [folder / "a.ckpt", folder / "runs" / "weights", folder / "runs" / "sharded"]
    assert [line.split(": ")[0] for line in lines] == list(map(str, expected))
    assert count == "3 looked at, 2 other files skipped: no checkpoints."


def test_strict_says_for_each_what_loading_it_would_run(mvae: Run, folder: Path) -> None:
    (folder / "runs" / "evil").write_bytes(checkpoint(dict(calls())["os.system"]))
    done = mvae("inspect", "--strict", folder / "a.ckpt", folder / "runs" / "weights", folder / "runs" / "evil")
    assert done.code == 1
    safe, *_, evil = done.out.splitlines()
    assert safe == f"{folder / 'a.ckpt'}: safe: torch.load(weights_only=True) takes it"
    assert evil.startswith(f"{folder / 'runs' / 'evil'}: DANGER: ")
    assert "posix.system" in evil
    done = mvae("inspect", "--strict", folder)
    assert done.code == 1
    assert evil in done.out.splitlines(), "whatever the file is called"


def test_what_cannot_be_read_counts_more_than_a_finding(mvae: Run, folder: Path) -> None:
    damage(folder / "a.ckpt")
    done = mvae("verify", folder)
    assert done.code == 1
    assert "state_dict.a" in done.out.splitlines()[0], "the line names the tensor"
    (folder / "text.ckpt").write_text("not a checkpoint")
    done = mvae("verify", folder, folder / "missing.ckpt")
    assert done.code == 2
    assert [line.split(" ")[2] for line in done.err.splitlines()] == ["is", "does"]
    assert "5 looked at, 2 other" in done.out
    assert len(done.out.splitlines()) == 4, "the others are still looked at"


def test_for_programs_there_is_nothing_but_objects(mvae: Run, folder: Path) -> None:
    for command in (["verify"], ["inspect", "--strict"]):
        done = mvae(*command, "--json", folder)
        assert len([json.loads(line) for line in done.out.splitlines()]) == 3
        assert "3 looked at" in done.err


def test_a_folder_without_a_checkpoint_is_not_passed_as_fine(refused: Run, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    assert "no checkpoint in" in refused("verify", tmp_path)
    assert "no checkpoint in" in refused("inspect", "--strict", tmp_path)


def test_a_file_under_another_name_is_passed_over_only_if_it_is_something_else(mvae: Run, folder: Path) -> None:
    for command in (["verify"], ["inspect", "--strict"]):
        (folder / "report.docx").write_bytes(b"PK\5\6" + bytes(18))
        done = mvae(*command, folder)
        assert done.err == ""
        assert "report.docx" not in done.out
        (folder / "broken.dat").write_bytes(b"cposix\nsystem\n(S'echo'\ntRoops")
        done = mvae(*command, folder)
        assert done.code == 2
        assert "broken.dat" in done.err
        assert "posix.system" in done.err
        (folder / "broken.dat").unlink()


def test_a_shard_that_is_missing_shows(mvae: Run, tmp_path: Path) -> None:
    names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for name, weight in zip(names, "ab", strict=True):
        save_file({weight: torch.ones(3)}, tmp_path / name)
    index = {"metadata": {}, "weight_map": dict(zip("ab", names, strict=True))}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    done = mvae("verify", tmp_path)
    assert (done.code, len(done.out.splitlines())) == (0, 2), "one checkpoint, and that it has no checksums"
    (tmp_path / names[1]).unlink()
    assert mvae("verify", tmp_path).code in (1, 2)
    assert names[1] in "".join(mvae("verify", tmp_path)[1:])


def test_one_checkpoint_is_shown_in_full(mvae: Run, folder: Path) -> None:
    for path in (folder / "a.ckpt", folder / "runs" / "sharded"):
        done = mvae("inspect", "--strict", path)
        assert "where the bytes are" in done.out
        assert "looked at" not in done.out
    damage(folder / "a.ckpt")
    assert len(mvae("verify", folder / "a.ckpt").out.splitlines()) == 3


def test_what_lies_beside_the_pieces_of_a_sharded_checkpoint_is_looked_at(mvae: Run, folder: Path) -> None:
    (folder / "runs" / "sharded" / "optimizer.pt").write_bytes(checkpoint(dict(calls())["os.system"]))
    assert "optimizer.pt: DANGER" in mvae("inspect", "--strict", folder / "runs" / "sharded").out


def test_without_strict_a_folder_is_not_opened(refused: Run, folder: Path) -> None:
    assert "is a folder" in refused("inspect", folder)
