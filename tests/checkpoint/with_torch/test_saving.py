"""Saving: whole or not at all, in place, without litter and without a second copy in memory."""

from __future__ import annotations

import os
import resource
import stat
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins import AsyncCheckpointIO
from lightning.pytorch.plugins.io import TorchCheckpointIO

import mvae.durable as module
from mvae import InteractionsDataModule, MultiVAE, fit
from mvae.checkpoint import CheckpointNotSavedError, DurableCheckpointIO
from mvae.checkpoint.with_torch.saving import check_written, save

CHECKPOINT = {"state_dict": {"w": torch.arange(1000.0)}, "epoch": 3}


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


# --- what is written


def test_the_file_is_what_torch_save_writes(tmp_path: Path) -> None:
    save(CHECKPOINT, tmp_path / "model.ckpt")
    assert names(tmp_path) == ["model.ckpt"]
    assert same(tmp_path / "model.ckpt")
    assert zipfile.ZipFile(tmp_path / "model.ckpt").testzip() is None


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="Linux counts peak memory so")
def test_no_second_copy_in_memory(tmp_path: Path) -> None:
    checkpoint = {str(i): torch.zeros(1 << 21) for i in range(8)}  # 64 MB
    save(CHECKPOINT, tmp_path / "warm.ckpt")

    def kilobytes(name: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(name))

    Path("/proc/self/clear_refs").write_text("5")
    before = kilobytes("VmRSS")
    save(checkpoint, tmp_path / "model.ckpt")
    assert kilobytes("VmHWM") - before < 0.1 * (64 << 10)


# --- what goes wrong


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """A disk that is full, as far as this process can tell."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_cannot_be_pickled_leaves_the_old_file(old: Path) -> None:
    with pytest.raises(Exception, match="pickle"):
        save({"w": torch.zeros(10), "f": lambda: None}, old)
    assert_stands(old)


@pytest.mark.parametrize("at", [100, -100])
def test_what_reads_back_otherwise_is_refused(old: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    fsync = os.fsync

    def flip(descriptor: int) -> None:
        fsync(descriptor)
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            position = at % os.fstat(descriptor).st_size
            os.pwrite(descriptor, bytes([os.pread(descriptor, 1, position)[0] ^ 1]), position)

    monkeypatch.setattr(module.os, "fsync", flip)
    with pytest.raises(CheckpointNotSavedError, match="old file stands"):
        save(CHECKPOINT, old)
    assert_stands(old)


def test_a_file_without_checksums_is_taken(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        save(CHECKPOINT, tmp_path / "model.ckpt")
    finally:
        torch.serialization.set_crc32_options(True)
    check_written(str(tmp_path / "model.ckpt"))
    assert same(tmp_path / "model.ckpt")


# --- killed, and saving at once


# --- as Lightning uses it


def test_paths_may_be_text_or_file_urls(tmp_path: Path) -> None:
    DurableCheckpointIO().save_checkpoint(CHECKPOINT, str(tmp_path / "a.ckpt"))
    DurableCheckpointIO().save_checkpoint(CHECKPOINT, f"file://{tmp_path}/b.ckpt")
    assert same(tmp_path / "a.ckpt")
    assert same(tmp_path / "b.ckpt")


def test_a_remote_path_is_left_to_lightning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    io = DurableCheckpointIO()
    io.save_checkpoint(CHECKPOINT, "memory://folder/model.ckpt")
    assert io.load_checkpoint("memory://folder/model.ckpt", weights_only=True)["epoch"] == 3
    io.remove_checkpoint("memory://folder/model.ckpt")
    with pytest.raises(FileNotFoundError):
        io.load_checkpoint("memory://folder/model.ckpt")
    assert names(tmp_path) == []


def test_storage_options_are_refused_as_by_lightning(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="storage_options"):
        DurableCheckpointIO().save_checkpoint(CHECKPOINT, tmp_path / "model.ckpt", storage_options={})


def test_loading_honours_weights_only_and_removing_removes(tmp_path: Path) -> None:
    io, path = DurableCheckpointIO(), tmp_path / "model.ckpt"
    io.save_checkpoint({"where": Path("x")}, path)
    with pytest.raises(Exception, match="Weights only load failed"):
        io.load_checkpoint(path, weights_only=True)
    assert io.load_checkpoint(path, weights_only=False) == {"where": Path("x")}
    io.remove_checkpoint(path)
    assert names(tmp_path) == []


@pytest.mark.parametrize("save_last", [True, "link"])
def test_model_checkpoint_saves_best_and_last_through_it(
    tmp_path: Path, datamodule: InteractionsDataModule, tiny_model: Callable[..., MultiVAE], save_last: Any
) -> None:
    result = fit(datamodule, tiny_model(), out=tmp_path, max_epochs=4, save_last=save_last, progress=False)
    assert isinstance(result.trainer.strategy.checkpoint_io, DurableCheckpointIO)
    assert {path.suffix for path in tmp_path.iterdir()} == {".ckpt", ".csv"}
    assert len(names(tmp_path)) == 3
    assert (tmp_path / "last.ckpt").is_symlink() == (save_last == "link")
    for path in tmp_path.glob("*.ckpt"):
        assert zipfile.ZipFile(path).testzip() is None
        torch.load(path, weights_only=True)


@pytest.mark.parametrize("wrap", [lambda io: io, lambda io: [AsyncCheckpointIO(io)]], ids=["itself", "in a list"])
def test_a_plugin_of_the_users_own_takes_its_place(
    tmp_path: Path, datamodule: InteractionsDataModule, tiny_model: Callable[..., MultiVAE], wrap: Callable[..., Any]
) -> None:
    saved: list[str] = []

    class Own(TorchCheckpointIO):
        def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
            saved.append(os.path.basename(path))
            super().save_checkpoint(checkpoint, path, storage_options)

    result = fit(datamodule, tiny_model(), out=tmp_path, max_epochs=1, progress=False, plugins=wrap(Own()))
    assert saved == [result.checkpoint.name]


def test_fit_says_so_when_it_cannot_save(
    tmp_path: Path, datamodule: InteractionsDataModule, tiny_model: Callable[..., MultiVAE]
) -> None:
    fit(datamodule, tiny_model(), out=tmp_path, max_epochs=1, progress=False)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with files_of_at_most(1_000), pytest.raises(CheckpointNotSavedError, match="was not saved: File too large"):
        fit(datamodule, tiny_model(), out=tmp_path, max_epochs=2, progress=False)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_whole_trainer_takes_it_as_a_plugin(
    tmp_path: Path, datamodule: InteractionsDataModule, tiny_model: Callable[..., MultiVAE]
) -> None:
    saver = ModelCheckpoint(dirpath=tmp_path, every_n_train_steps=2, save_top_k=-1)
    trainer = L.Trainer(
        max_epochs=1,
        callbacks=[saver],
        plugins=[DurableCheckpointIO()],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(tiny_model(), datamodule=datamodule)
    assert names(tmp_path) == ["epoch=0-step=2.ckpt"]
    assert all(same_weights(tmp_path / name) for name in names(tmp_path))


def same_weights(path: Path) -> bool:
    return torch.load(path, weights_only=True)["global_step"] == 2


def fitted(folder: Path | str, plugin: Any, **options: Any) -> ModelCheckpoint:
    from lightning.pytorch.demos.boring_classes import BoringModel

    keep = ModelCheckpoint(folder, "{step}", save_top_k=-1, **options)
    trainer = L.Trainer(
        max_epochs=2, limit_train_batches=2, limit_val_batches=0, plugins=[plugin], callbacks=[keep], logger=False,
        enable_progress_bar=False, enable_model_summary=False, accelerator="cpu",
    )  # fmt: skip
    trainer.fit(BoringModel())
    return keep


@pytest.mark.parametrize("save_last", [True, "link"])
def test_wrapped_in_lightnings_async_plugin_it_saves_the_same_files(tmp_path: Path, save_last: Any) -> None:
    for name, plugin in (("ours", DurableCheckpointIO()), ("theirs", TorchCheckpointIO())):
        (tmp_path / name).mkdir()  # Lightning makes the link before its plugin has made the folder
        fitted(tmp_path / name, AsyncCheckpointIO(plugin), save_last=save_last)
    ours, theirs = (sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("ours", "theirs"))
    assert ours == theirs == ["last.ckpt", "step=2.ckpt", "step=4.ckpt"]
    last = tmp_path / "ours" / "last.ckpt"
    assert last.is_symlink() == (save_last == "link")
    assert torch.load(last, weights_only=True)["global_step"] == 4


def test_wrapped_in_lightnings_async_plugin_a_save_that_fails_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    plugin = AsyncCheckpointIO(DurableCheckpointIO())
    plugin.save_checkpoint({}, tmp_path / "file" / "x.ckpt")
    with pytest.raises(CheckpointNotSavedError, match="was not saved"):
        plugin.teardown()


def test_a_checkpoint_may_go_to_a_file_system_of_fsspec() -> None:
    keep = fitted("memory://checkpoints", DurableCheckpointIO(), save_last=True)
    with fsspec.open("memory://checkpoints/last.ckpt", "rb") as file:
        assert torch.load(file, weights_only=True)["global_step"] == 4
    assert keep.best_model_path.startswith("memory://")
