"""get_newest_checkpoint(): the file training goes on from, and why the others are passed over."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mvae import InteractionsDataModule, fit, get_newest_checkpoint
from mvae.checkpoint import CheckpointError, read
from mvae.checkpoint.tools.newest import find_newest
from mvae.errors import CheckpointNotFoundError

needs_links = pytest.mark.skipif(os.name == "nt", reason="Windows makes links for administrators only")


@pytest.fixture(scope="module")
def run(
    datamodule: InteractionsDataModule, tiny_model: Callable, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, Path]:
    """Optimizer step → a checkpoint saved after it, of one run of 9 steps: read them, change nothing."""
    from mvae.checkpoint import SaveNewest

    out = tmp_path_factory.mktemp("run")
    fit(datamodule, tiny_model(), out=out, max_epochs=3, callbacks=[SaveNewest(out, 2, keep=9)])
    return {read(path).tree["global_step"]: path for path in out.glob("newest-*.ckpt")}


@pytest.fixture
def folder(run: dict[int, Path], tmp_path: Path) -> Path:
    """Three of them, under names that say nothing, the newest first and with the oldest file time."""
    for name, step in (("a", 8), ("b", 6), ("c", 4)):
        shutil.copy(run[step], tmp_path / f"{name}.ckpt")
        os.utime(tmp_path / f"{name}.ckpt", (step, 100 - step))
    return tmp_path


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    """Change one byte of a tensor's values, which torch.load does not notice."""
    content = path.read_bytes()
    values = torch.load(path, weights_only=True)["state_dict"]["encoder.0.weight"].numpy().tobytes()
    at = content.index(values) + 100
    path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])


def test_the_most_steps_win_whatever_names_and_times_say(folder: Path, run: dict[int, Path]) -> None:
    assert sorted(run) == [2, 4, 6, 8, 9]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert get_newest_checkpoint(folder) == folder / "a.ckpt"
        assert get_newest_checkpoint(str(folder)) == folder / "a.ckpt"


def test_of_equally_many_steps_the_end_of_the_epoch_wins(
    datamodule: InteractionsDataModule, tiny_model: Callable, tmp_path: Path
) -> None:
    from lightning.pytorch.callbacks import ModelCheckpoint

    after_batch = ModelCheckpoint(tmp_path, "z-{step}", save_top_k=-1, every_n_train_steps=1)
    fit(datamodule, tiny_model(), out=tmp_path, max_epochs=1, save_every="epoch", callbacks=[after_batch])
    assert len(list(tmp_path.glob("*step=3.ckpt"))) == 2
    assert get_newest_checkpoint(tmp_path).name == "newest-epoch=00-step=3.ckpt"


@pytest.mark.parametrize("harm", [cut, flip, lambda path: path.write_bytes(b"")], ids=["torn", "flipped", "empty"])
def test_a_damaged_file_is_passed_over_and_named(folder: Path, harm: Callable[[Path], object]) -> None:
    harm(folder / "a.ckpt")
    with pytest.warns(UserWarning, match=r"a\.ckpt is passed over: ") as said:
        assert get_newest_checkpoint(folder) == folder / "b.ckpt"
    assert len(said) == 1


def test_the_damaged_tensor_is_named(folder: Path) -> None:
    flip(folder / "a.ckpt")
    with pytest.warns(UserWarning, match=r"it is damaged \(.*data/\d+: its [\d,]+ bytes are not those that were"):
        get_newest_checkpoint(folder)


@needs_links
def test_foreign_files_and_weights_alone_are_passed_over_and_named(folder: Path, run: dict[int, Path]) -> None:
    checkpoint = torch.load(run[9], weights_only=True)
    weights = {key: checkpoint[key] for key in ("state_dict", "global_step", "epoch", "pytorch-lightning_version")}
    torch.save(weights, folder / "weights.ckpt")
    torch.save(checkpoint["state_dict"], folder / "foreign.ckpt")
    (folder / "text.ckpt").write_text("step 99")
    (folder / "sharded.ckpt").mkdir()
    (folder / "link.ckpt").symlink_to("gone.ckpt")
    found = find_newest(folder)
    assert found.path == folder / "a.ckpt"
    assert [sentence.split(" is passed over: ")[0] for sentence in found.passed] == [
        "foreign.ckpt",
        "sharded.ckpt",
        "text.ckpt",
        "weights.ckpt",
        "link.ckpt",
    ]
    foreign, sharded, text, alone, link = (sentence.split(": ", 1)[1] for sentence in found.passed)
    assert foreign == "it is not a checkpoint that Lightning saved (it has no global_step)."
    assert sharded == "it is a folder, as sharded checkpoints are; expected a file."
    assert text
    assert alone == "it holds weights and no state of a training (save_weights_only=True?)."
    assert link == "it is a link to gone.ckpt, which is not there."


@needs_links
def test_a_link_is_followed(folder: Path, run: dict[int, Path], tmp_path_factory: pytest.TempPathFactory) -> None:
    (folder / "last.ckpt").symlink_to("a.ckpt")
    assert get_newest_checkpoint(folder) == folder / "a.ckpt"
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "nine.ckpt"
    shutil.copy(run[9], elsewhere)
    (folder / "last.ckpt").unlink()
    (folder / "last.ckpt").symlink_to(elsewhere)
    assert get_newest_checkpoint(folder) == elsewhere.resolve()


def test_the_later_run_in_a_folder_wins_though_it_has_fewer_steps(
    datamodule: InteractionsDataModule, tiny_model: Callable, tmp_path: Path
) -> None:
    fit(datamodule, tiny_model(), out=tmp_path, max_epochs=4, save_every=2)
    fit(datamodule, tiny_model(), out=tmp_path, max_epochs=2, save_every=2)
    assert get_newest_checkpoint(tmp_path).name == "newest-epoch=01-step=6.ckpt"


def test_one_more_condition_can_be_asked_for(folder: Path) -> None:
    found = find_newest(folder, lambda tree: "too far." if tree["global_step"] == 8 else "")
    assert (found.path, found.passed) == (folder / "b.ckpt", ["a.ckpt is passed over: too far."])


def test_a_folder_without_one_is_an_error_that_names_what_is_there(folder: Path) -> None:
    for path in folder.iterdir():
        cut(path)
    passed = pytest.warns(UserWarning, match="is passed over")
    with passed, pytest.raises(CheckpointNotFoundError, match=r"a\.ckpt is passed over: .*c\.ckpt"):
        get_newest_checkpoint(folder)


@pytest.mark.parametrize(
    ("name", "said"), [("empty", "There is no .ckpt file in"), ("none", "does not exist"), ("a.ckpt", "is a file")]
)
def test_no_folder_and_an_empty_folder_are_errors(folder: Path, name: str, said: str) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(CheckpointError, match=said):
        get_newest_checkpoint(folder / name)
