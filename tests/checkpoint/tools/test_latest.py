"""get_latest_checkpoint(): the best model of a folder, whatever names and file times pretend.

The files are written by Lightning's own ModelCheckpoint, in runs whose losses are given.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from mvae import CheckpointError, get_latest_checkpoint
from mvae.errors import CheckpointNotFoundError


class Scripted(L.LightningModule):
    """Its validation loss in each epoch is the number it is given."""

    def __init__(self, losses: Sequence[float]) -> None:
        super().__init__()
        self.losses = losses
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch: object, batch_idx: int) -> torch.Tensor:
        return self.weight.sum()

    def validation_step(self, batch: object, batch_idx: int) -> None:
        self.log_dict(dict.fromkeys(("val_loss", "val_ndcg"), self.losses[self.current_epoch]), batch_size=1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def run(folder: Path, losses: Sequence[float], *, stopper: bool = True, **options: object) -> None:
    """One epoch for each loss. ``{epoch}.ckpt`` is the file name and every epoch is kept unless told otherwise."""
    options = {"filename": "{epoch}", "monitor": "val_loss", "save_top_k": -1} | options
    callbacks: list = [ModelCheckpoint(folder, **options)]
    if stopper and options["monitor"]:
        callbacks.append(EarlyStopping(options["monitor"], mode=options.get("mode", "min"), patience=99))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = L.Trainer(
            max_epochs=len(losses),
            callbacks=callbacks,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            accelerator="cpu",
        )
        trainer.fit(Scripted(losses), [0, 1], [0])


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def touch(path: Path, when: int) -> None:
    os.utime(path, (when, when))


# ---- which one is the best -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("losses", "best"), [([3.0, 1.0, 2.0], "epoch=1"), ([1.0, 2.0, 3.0], "epoch=0"), ([3.0, 2.0, 1.0], "epoch=2")]
)
def test_the_lowest_loss_wins_and_not_the_newest_file(tmp_path: Path, losses: list, best: str) -> None:
    run(tmp_path, losses)
    assert names(tmp_path) == {"epoch=0.ckpt", "epoch=1.ckpt", "epoch=2.ckpt"}
    assert get_latest_checkpoint(tmp_path) == tmp_path / f"{best}.ckpt"
    assert get_latest_checkpoint(str(tmp_path)) == tmp_path / f"{best}.ckpt"


def test_the_number_in_a_name_is_not_the_score(tmp_path: Path) -> None:
    run(tmp_path, [9.5, 10.5], filename="{val_loss}")
    assert names(tmp_path) == {"val_loss=9.5.ckpt", "val_loss=10.5.ckpt"}
    (tmp_path / "val_loss=9.5.ckpt").rename(tmp_path / "val_loss=99.ckpt")
    (tmp_path / "val_loss=10.5.ckpt").rename(tmp_path / "val_loss=0.ckpt")
    assert get_latest_checkpoint(tmp_path).name == "val_loss=99.ckpt"


def test_in_mode_max_the_highest_wins(tmp_path: Path) -> None:
    run(tmp_path, [0.1, 0.3, 0.2], monitor="val_ndcg", mode="max")
    assert get_latest_checkpoint(tmp_path).name == "epoch=1.ckpt"


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize(
    ("losses", "best"), [([5.0, float("nan")], "epoch=0.ckpt"), ([float("nan"), 5.0], "epoch=1.ckpt")]
)
def test_a_loss_of_nan_never_wins(tmp_path: Path, losses: list[float], best: str, mode: str) -> None:
    run(tmp_path, losses, mode=mode, stopper=False)
    assert names(tmp_path) == {"epoch=0.ckpt", "epoch=1.ckpt"}
    for path in tmp_path.iterdir():  # ModelCheckpoint notes inf for nan; somebody's own script may note nan itself
        checkpoint = torch.load(path)
        (state,) = checkpoint["callbacks"].values()
        infinite = {name: score for name, score in state["best_k_models"].items() if score.isinf()}
        state["best_k_models"] |= {name: score * float("nan") for name, score in infinite.items()}
        assert get_latest_checkpoint(tmp_path).name == best
        torch.save(checkpoint, path)
    assert get_latest_checkpoint(tmp_path).name == best


def test_of_equal_scores_the_earlier_wins_as_in_modelcheckpoint(tmp_path: Path) -> None:
    run(tmp_path, [2.0, 1.0, 1.0])
    assert get_latest_checkpoint(tmp_path).name == "epoch=1.ckpt"


def test_nothing_monitored_means_the_most_steps(tmp_path: Path) -> None:
    run(tmp_path, [1.0] * 11, monitor=None)
    assert get_latest_checkpoint(tmp_path).name == "epoch=10.ckpt"  # and not epoch=9, the last by name


# ---- last.ckpt -------------------------------------------------------------------------------------------------


def test_a_last_ckpt_that_an_older_run_left_is_not_taken(tmp_path: Path) -> None:
    run(tmp_path, [5.0, 4.0], save_last=True)
    run(tmp_path, [3.0, 2.0], save_last=False, filename="second-{epoch}")
    touch(tmp_path / "last.ckpt", 4_000_000_000)
    assert get_latest_checkpoint(tmp_path).name == "second-epoch=1.ckpt"


def test_a_last_ckpt_that_is_newer_and_worse_is_not_taken(tmp_path: Path) -> None:
    run(tmp_path, [1.0, 2.0, 3.0], save_last=True)
    assert torch.load(tmp_path / "last.ckpt")["epoch"] == 2
    assert get_latest_checkpoint(tmp_path).name == "epoch=0.ckpt"


@pytest.mark.parametrize("stopper", [True, False])
def test_a_last_ckpt_that_is_as_good_gives_way_to_the_file_it_is_a_copy_of(tmp_path: Path, stopper: bool) -> None:
    run(tmp_path, [3.0, 2.0], save_last=True, filename="model-{epoch}", save_top_k=1, stopper=stopper)
    assert names(tmp_path) == {"last.ckpt", "model-epoch=1.ckpt"}
    assert get_latest_checkpoint(tmp_path).name == "model-epoch=1.ckpt"


def test_it_gives_way_where_nothing_is_monitored_too(tmp_path: Path) -> None:
    run(tmp_path, [1.0, 1.0], save_last=True, monitor=None)
    assert get_latest_checkpoint(tmp_path).name == "epoch=1.ckpt"


def test_last_ckpt_is_taken_where_nothing_else_is_left(tmp_path: Path) -> None:
    run(tmp_path, [1.0, 2.0], save_last=True, save_top_k=0)
    assert names(tmp_path) == {"last.ckpt"}
    assert get_latest_checkpoint(tmp_path).name == "last.ckpt"


def test_a_link_called_last_ckpt_is_no_checkpoint_of_its_own(tmp_path: Path) -> None:
    run(tmp_path, [1.0, 2.0], save_last="link")
    assert (tmp_path / "last.ckpt").is_symlink()
    assert get_latest_checkpoint(tmp_path).name == "epoch=0.ckpt"
    (tmp_path / "last.ckpt").unlink()
    (tmp_path / "last.ckpt").symlink_to("gone.ckpt")
    assert get_latest_checkpoint(tmp_path).name == "epoch=0.ckpt"


# ---- names and times ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "second", "best"), [(1.0, 2.0, "best.ckpt"), (2.0, 1.0, "best-v1.ckpt")])
def test_v1_says_nothing(tmp_path: Path, first: float, second: float, best: str) -> None:
    run(tmp_path, [first], filename="best")
    run(tmp_path, [second], filename="best")
    assert names(tmp_path) == {"best.ckpt", "best-v1.ckpt"}
    assert get_latest_checkpoint(tmp_path).name == best


def test_file_times_say_nothing(tmp_path: Path) -> None:
    run(tmp_path, [3.0, 1.0, 2.0])
    for when, name in enumerate(["epoch=1", "epoch=0", "epoch=2"], start=1_000_000_000):
        touch(tmp_path / f"{name}.ckpt", when)
    assert get_latest_checkpoint(tmp_path).name == "epoch=1.ckpt"


@pytest.mark.parametrize("stopper", [True, False])
def test_a_folder_that_was_moved_or_copied_is_read_where_it_is(tmp_path: Path, stopper: bool) -> None:
    run(tmp_path / "here", [3.0, 1.0, 2.0], stopper=stopper)
    shutil.copytree(tmp_path / "here", tmp_path / "copy", copy_function=shutil.copyfile)
    (tmp_path / "here").rename(tmp_path / "there")
    for folder in (tmp_path / "there", tmp_path / "copy"):
        assert get_latest_checkpoint(folder) == folder / "epoch=1.ckpt"


def test_a_renamed_file_is_known_by_what_early_stopping_noted(tmp_path: Path) -> None:
    run(tmp_path, [3.0, 1.0, 2.0])
    (tmp_path / "epoch=1.ckpt").rename(tmp_path / "for the boss.ckpt")
    (tmp_path / "epoch=2.ckpt").rename(tmp_path / "a worse one.ckpt")
    assert get_latest_checkpoint(tmp_path).name == "for the boss.ckpt"


@pytest.mark.parametrize("stopper", [True, False])
def test_a_renamed_file_that_does_not_say_its_score_is_not_guessed_at(tmp_path: Path, stopper: bool) -> None:
    run(tmp_path, [1.0, 2.0, 3.0], stopper=stopper)
    (tmp_path / "epoch=0.ckpt").unlink()
    (tmp_path / "epoch=2.ckpt").rename(tmp_path / "renamed.ckpt")  # the best score noted in it is that of epoch 0
    assert get_latest_checkpoint(tmp_path).name == "epoch=1.ckpt"


# ---- folders that are not as they should be --------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage", [lambda content: content[: len(content) // 2], lambda content: b"", lambda content: b"not a checkpoint"]
)
def test_a_damaged_file_is_passed_over_with_a_warning(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    run(tmp_path, [3.0, 1.0, 2.0])
    best = tmp_path / "epoch=1.ckpt"
    best.write_bytes(damage(best.read_bytes()))
    with pytest.warns(UserWarning, match=r"epoch=1\.ckpt is passed over: ") as caught:
        assert get_latest_checkpoint(tmp_path).name == "epoch=2.ckpt"
    assert len(caught) == 1
    assert caught[0].filename == __file__  # it points at the caller


def test_other_files_and_folders_are_no_candidates(tmp_path: Path) -> None:
    run(tmp_path, [1.0])
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "epoch=5.ckpt.part").write_text("x")
    (tmp_path / "sharded.ckpt").mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert get_latest_checkpoint(tmp_path).name == "epoch=0.ckpt"


@pytest.mark.parametrize("content", [{"w": torch.ones(1)}, [1, 2], {"callbacks": [1], "global_step": "x"}])
def test_a_file_of_another_kind_is_only_taken_where_it_is_alone(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "aaa.ckpt")
    assert get_latest_checkpoint(tmp_path).name == "aaa.ckpt"
    run(tmp_path, [1.0], monitor=None)
    assert get_latest_checkpoint(tmp_path).name == "epoch=0.ckpt"


def test_files_scored_by_different_metrics_are_not_compared(tmp_path: Path) -> None:
    run(tmp_path, [1.0])
    run(tmp_path, [0.5], monitor="val_ndcg", mode="max", filename="other")
    with pytest.raises(CheckpointError, match=r"scored by val_loss \(min\) and by val_ndcg \(max\)"):
        get_latest_checkpoint(tmp_path)


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointNotFoundError) as caught:
        get_latest_checkpoint(folder)
    assert isinstance(caught.value, FileNotFoundError)
    assert str(folder) in str(caught.value)
    return str(caught.value)


def test_an_empty_folder_a_missing_one_and_a_file_are_told_apart(tmp_path: Path) -> None:
    assert "no readable .ckpt file" in refusal(tmp_path)
    assert "does not exist" in refusal(tmp_path / "missing")
    (tmp_path / "file.ckpt").write_text("x")
    assert "is a file" in refusal(tmp_path / "file.ckpt")


def test_a_folder_with_nothing_but_damage_is_as_good_as_empty(tmp_path: Path) -> None:
    (tmp_path / "broken.ckpt").write_text("x")
    with pytest.warns(UserWarning, match="passed over"):
        assert "no readable .ckpt file" in refusal(tmp_path)


def test_no_torch_is_needed(tmp_path: Path) -> None:
    run(tmp_path, [2.0, 1.0])
    program = (
        "import sys; from mvae.checkpoint.tools.latest import get_latest_checkpoint as best; "
        "print(best(sys.argv[1]).name, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["epoch=1.ckpt", "False"]


def test_a_folder_behind_a_url(tmp_path: Path) -> None:
    import fsspec

    run(tmp_path / "here", [3.0, 1.0, 2.0])
    memory = fsspec.filesystem("memory")
    for path in (tmp_path / "here").iterdir():
        memory.put_file(str(path), f"/runs/one/{path.name}")
    memory.pipe_file("/runs/one/broken.ckpt", b"PK")
    with pytest.warns(UserWarning, match=r"broken\.ckpt is passed over"):
        found = get_latest_checkpoint("memory://runs/one")
    assert found == "memory://runs/one/epoch=1.ckpt"
    with memory.open("/runs/one/epoch=1.ckpt") as file:
        assert torch.load(file, weights_only=True)["epoch"] == 1
    trainer = L.Trainer(max_epochs=3, accelerator="cpu", logger=False, enable_progress_bar=False, barebones=True)
    trainer.fit(Scripted([3.0, 1.0, 2.0]), [0, 1], ckpt_path=found, weights_only=True)
    assert get_latest_checkpoint(f"file://{tmp_path}/here") == tmp_path / "here" / "epoch=1.ckpt"


@pytest.mark.parametrize("url", ["memory://nowhere", "nothing-known://a/b"])
def test_a_url_that_leads_nowhere_says_so(url: str) -> None:
    with pytest.raises(CheckpointError, match=url):
        get_latest_checkpoint(url)
