"""Whatever is written: whole or not at all, in place, and without litter."""

from __future__ import annotations

import errno
import os
import resource
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import mvae.durable as module
from mvae.checkpoint import CheckpointNotSavedError, DurableCheckpointIO
from mvae.checkpoint.with_torch.saving import save
from mvae.durable import durable_file, remove_litter

CHECKPOINT = {"state_dict": {"w": torch.arange(1000.0)}, "epoch": 3}


LITTER = ".0123456789abcdef.mvae-part"


posix = pytest.mark.skipif(os.name == "nt", reason="locks and limits of POSIX")


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def same(path: Path) -> bool:
    return torch.equal(torch.load(path, weights_only=True)["state_dict"]["w"], CHECKPOINT["state_dict"]["w"])


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A file that must stand."""
    path = tmp_path / "model.ckpt"
    path.write_bytes(b"the old file")
    return path


def assert_stands(old: Path) -> None:
    assert names(old.parent) == [old.name]
    assert old.read_bytes() == b"the old file"


def test_it_takes_the_place_of_the_old_file(old: Path) -> None:
    save(CHECKPOINT, old)
    assert names(old.parent) == [old.name]
    assert same(old)


def test_folders_are_made(tmp_path: Path) -> None:
    save(CHECKPOINT, tmp_path / "a" / "b" / "model.ckpt")
    assert same(tmp_path / "a" / "b" / "model.ckpt")


@posix
def test_the_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    save(CHECKPOINT, tmp_path / "model.ckpt")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "model.ckpt")}
    assert len(modes) == 1


@posix
def test_on_the_disk_before_it_is_renamed_and_the_folder_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def noting(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any) -> Any:
            kind = "folder" if name == "fsync" and stat.S_ISDIR(os.fstat(args[0]).st_mode) else "file"
            done.append(f"{name} {kind}")
            return call(*args)

        return noted

    monkeypatch.setattr(module.os, "fsync", noting("fsync", os.fsync))
    monkeypatch.setattr(module.os, "replace", noting("replace", os.replace))
    with durable_file(tmp_path / "a", check=lambda _: done.append("check")) as file:
        file.write(b"x")
    assert done == ["fsync file", "check", "replace file", "fsync folder"]


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """A disk that is full, as far as this process can tell."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@posix
@pytest.mark.parametrize("room", [0, 1, 2_000, 100_000])
def test_a_full_disk_is_an_error_and_the_old_file_stands(old: Path, room: int) -> None:
    checkpoint = {"w": torch.zeros(50_000)}
    with files_of_at_most(room), pytest.raises(CheckpointNotSavedError) as error:
        save(checkpoint, old)
    assert f"{old} was not saved: File too large." in str(error.value)
    assert "stands" in str(error.value)
    assert_stands(old)


@posix
def test_a_full_disk_says_what_to_do(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module.os, "fsync", full)
    with pytest.raises(CheckpointNotSavedError, match=r"No space left on device.*stands\. Free some space") as error:
        save(CHECKPOINT, old)
    assert error.value.errno == errno.ENOSPC
    assert_stands(old)


@posix
def test_a_folder_that_cannot_be_saved_is_told_apart(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(module.os, "fsync", failing)
    with pytest.raises(CheckpointNotSavedError, match="is written, but may be lost in a power cut"):
        save(CHECKPOINT, old)
    assert same(old)


@contextmanager
def ordinary_user() -> Iterator[None]:
    """root may write everywhere."""
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@posix
def test_a_folder_that_may_not_be_written_is_an_error() -> None:
    with tempfile.TemporaryDirectory() as name:
        old = Path(name, "model.ckpt")
        old.write_bytes(b"the old file")
        os.chmod(name, 0o555)
        advice = r"Permission denied.*stands\. Save to a folder that you may write to\."
        with ordinary_user(), pytest.raises(CheckpointNotSavedError, match=advice):
            save(CHECKPOINT, old)
        assert_stands(old)
        with ordinary_user(), pytest.raises(CheckpointNotSavedError, match="Nothing was left behind"):
            save(CHECKPOINT, Path(name, "new", "model.ckpt"))
        assert_stands(old)


def test_a_file_where_the_folder_should_be_is_an_error(old: Path) -> None:
    with pytest.raises(CheckpointNotSavedError, match="was not saved"):
        save(CHECKPOINT, old / "model.ckpt")
    assert_stands(old)


def test_a_folder_where_the_file_should_be_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "model.ckpt").mkdir()
    with pytest.raises(CheckpointNotSavedError, match="under another name"):
        save(CHECKPOINT, tmp_path / "model.ckpt")
    assert names(tmp_path) == ["model.ckpt"]


@given(
    chunks=st.lists(st.binary(max_size=100), max_size=5),
    failure=st.sampled_from([None, ValueError, OSError, KeyboardInterrupt]),
    at=st.integers(0, 5),
)
def test_whatever_happens_the_old_or_the_new_file_stands_alone(
    chunks: list[bytes], failure: type[BaseException] | None, at: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "file")
        path.write_bytes(b"old")
        fails = failure is not None and at < len(chunks)
        try:
            with durable_file(path) as file:
                for number, chunk in enumerate(chunks):
                    if failure is not None and number == at:
                        raise failure
                    file.write(chunk)
        except (ValueError, OSError, KeyboardInterrupt):
            assert fails
        assert os.listdir(folder) == ["file"]
        assert path.read_bytes() == (b"old" if fails else b"".join(chunks))


KILLED = """
import os, signal, sys, threading, time, torch
from mvae.checkpoint.with_torch.saving import save
folder, kills = sys.argv[1], int(sys.argv[2])
for number in range(kills):
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)
        for step in range(10**6):
            save({"step": step, "w": [torch.full((100_000,), float(step))] * 2, "run": number}, folder + "/last.ckpt")
            os.write(write, step.to_bytes(4, "little"))
    os.close(write)
    first = os.read(read, 4)
    time.sleep(0.003 + 0.013 * number)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    acknowledged = first
    while more := os.read(read, 4):
        acknowledged = more
    found = torch.load(folder + "/last.ckpt", weights_only=True)
    assert found["run"] == number, "the newest complete file is lost"
    assert found["step"] >= int.from_bytes(acknowledged, "little"), "a file that was saved is lost"
    assert (found["w"][0] == found["step"]).all()
    assert len(os.listdir(folder)) <= 2, os.listdir(folder)
save({}, folder + "/last.ckpt")
assert os.listdir(folder) == ["last.ckpt"], os.listdir(folder)
print("well")
"""


@posix
def test_a_killed_save_loses_nothing_and_leaves_nothing_that_grows(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path), "5"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert run.stdout == "well\n", run.stderr


@posix
def test_litter_goes_with_the_next_save_and_nothing_else_does(tmp_path: Path) -> None:
    others = [".notes.mvae-part", "x.mvae-part", ".0123456789abcdef.mvae-part.txt", "model.ckpt.part", "tmpab12.part"]
    for name in [LITTER, *others]:
        (tmp_path / name).write_bytes(b"")
    save(CHECKPOINT, tmp_path / "model.ckpt")
    assert names(tmp_path) == sorted([*others, "model.ckpt"])


@posix
def test_a_file_being_written_is_not_taken_for_litter(tmp_path: Path) -> None:
    with durable_file(tmp_path / "one") as file:
        file.write(b"1")
        remove_litter(str(tmp_path))
        save(CHECKPOINT, tmp_path / "two")
    assert names(tmp_path) == ["one", "two"]


@posix
def test_litter_that_is_a_link_is_not_followed(tmp_path: Path, old: Path) -> None:
    (tmp_path / LITTER).symlink_to(old)
    remove_litter(str(tmp_path))
    assert old.read_bytes() == b"the old file"


@posix
def test_many_may_save_in_one_folder_at_once(tmp_path: Path) -> None:
    failed: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for step in range(15):
                save({"number": number, "step": step}, tmp_path / f"{number % 2}.ckpt")
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert names(tmp_path) == ["0.ckpt", "1.ckpt"]
    assert {torch.load(tmp_path / name)["step"] for name in names(tmp_path)} == {14}


def test_a_link_is_replaced_and_not_written_through(old: Path) -> None:
    link = old.parent / "last.ckpt"
    link.symlink_to(old.name)
    DurableCheckpointIO().save_checkpoint(CHECKPOINT, link)
    assert old.read_bytes() == b"the old file"
    assert not link.is_symlink()
    assert same(link)
