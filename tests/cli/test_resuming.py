"""mvae train --resume: killed or stopped by real signals, the run goes on with its options to the same end."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import mvae as package
from mvae import get_newest_checkpoint

if os.name == "nt":
    pytest.skip("Windows has no signals to send", allow_module_level=True)

EPOCHS = 20
TRAIN = [
    "train",
    "--data",
    "synthetic:200x50",
    "--batch-size",
    32,
    "--max-epochs",
    EPOCHS,
    "--patience",
    50,
    "--save-every",
    "epoch",
]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(package.__file__).parents[1]), "OMP_NUM_THREADS": "1"}


def start(*arguments: object) -> subprocess.Popen[str]:
    """The command as a process of its own."""
    command = [sys.executable, "-m", "mvae", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)


def stopped(out: Path, signum: int, *more: object) -> tuple[int, str]:
    """Train until the first state has been saved, send a signal; the exit code and what was said of it."""
    process = start(*TRAIN, "--out", out, *more)
    while process.poll() is None and not any(out.glob("newest-*.ckpt")):
        time.sleep(0.01)
    process.send_signal(signum)
    _, said = process.communicate(timeout=600)
    return process.returncode, said


def end(out: Path) -> dict[str, Any]:
    """What a run leaves, but for paths and the time it was started."""
    newest = torch.load(get_newest_checkpoint(out), weights_only=True)
    (best,) = out.glob("multi-vae-*.ckpt")
    kept = {key: newest[key] for key in ("state_dict", "optimizer_states", "lr_schedulers", "loops", "global_step")}
    kept |= {"best": torch.load(best, weights_only=True)["state_dict"], "name": best.name}
    return kept | {"history": (out / "history.csv").read_text()}


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run: read it, change nothing."""
    out = tmp_path_factory.mktemp("whole")
    assert start(*TRAIN, "--out", out).wait(600) == 0
    return out


@pytest.fixture(scope="module")
def term(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, str]:
    """A run that SIGTERM stopped: its folder, its exit code, and what it said."""
    out = tmp_path_factory.mktemp("my runs") / "term"
    return out, *stopped(out, signal.SIGTERM)


@pytest.fixture
def unfinished(term: tuple[Path, int, str], tmp_path: Path) -> Path:
    """A copy of that folder."""
    shutil.copytree(term[0], tmp_path / "unfinished")
    return tmp_path / "unfinished"


def test_sigterm_saves_says_the_line_to_type_and_exits_with_143(term: tuple[Path, int, str]) -> None:
    out, code, said = term
    newest = get_newest_checkpoint(out)
    step = torch.load(newest, weights_only=True)["global_step"]
    assert code == 143
    assert said == (
        f"Stopped by SIGTERM after step {step}; the state is saved in {newest}. To go on: mvae train --resume '{out}'\n"
    )


def test_the_resumed_run_ends_as_if_nothing_had_happened(mvae: Callable, unfinished: Path, whole: Path) -> None:
    newest = get_newest_checkpoint(unfinished)
    step = torch.load(newest, weights_only=True)["global_step"]
    done = mvae("train", "--resume", unfinished)
    assert (done.code, done.err) == (0, "")
    assert f"{newest}: resumed from step {step}.\n" in done.out
    assert f"{EPOCHS} epochs; the best one is in " in done.out
    assert same(end(unfinished), end(whole))


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130)], ids=["SIGKILL", "Ctrl-C"])
def test_a_killed_run_and_one_ended_by_ctrl_c_too(
    mvae: Callable, tmp_path: Path, whole: Path, signum: int, code: int
) -> None:
    assert stopped(tmp_path, signum)[0] == code
    assert mvae("train", "--resume", tmp_path).code == 0
    assert same(end(tmp_path), end(whole))


def test_a_file_can_be_named_and_the_run_goes_on_in_its_folder(mvae: Callable, unfinished: Path, whole: Path) -> None:
    assert mvae("train", "--resume", get_newest_checkpoint(unfinished)).code == 0
    assert same(end(unfinished), end(whole))


def test_resume_alone_looks_in_out_and_starts_where_there_is_nothing(
    mvae: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = "--data", "synthetic:60x20", "--max-epochs", 2
    first = mvae("train", *data, "--resume")
    assert first.code == 0
    assert first.out.startswith("There is nothing to resume in checkpoints yet.\n")
    assert "checkpoints/newest-epoch=01-step=2.ckpt: ended at step 2: " in mvae("train", *data, "--resume").out


def test_into_a_folder_with_an_unfinished_run_is_refused_with_the_line_to_type(
    refused: Callable, unfinished: Path
) -> None:
    before = {path.name: path.read_bytes() for path in unfinished.iterdir()}
    said = refused(*TRAIN, "--out", unfinished)
    assert said.startswith(f"{unfinished} holds a run that has not ended: it is in epoch ")
    assert said.endswith(f"To go on with it: mvae train --resume {unfinished}")
    assert {path.name: path.read_bytes() for path in unfinished.iterdir()} == before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--seed", 3), "--seed 3 contradicts --seed 0"),
        (
            ("--batch-size", 64, "--patience", 5),
            "--patience 5 contradicts --patience 50; --batch-size 64 contradicts --batch-size 32",
        ),
        (("--data", "ml-100k"), "--data ml-100k contradicts --data synthetic:200x50"),
        (("--max-epochs", 9), f"--max-epochs 9 contradicts --max-epochs {EPOCHS}"),
        (("--val-users", 7), "--val-users 7 contradicts the default of --val-users"),
        (("--out", "elsewhere"), "--out elsewhere contradicts --out "),
    ],
)
def test_an_option_that_contradicts_is_refused_with_both_values(
    refused: Callable, unfinished: Path, options: tuple, said: str
) -> None:
    before = {path.name: path.read_bytes() for path in unfinished.iterdir()}
    assert said in refused("train", "--resume", unfinished, *options)
    assert {path.name: path.read_bytes() for path in unfinished.iterdir()} == before


def test_options_may_be_repeated_and_more_epochs_asked_for(mvae: Callable, unfinished: Path) -> None:
    done = mvae(*TRAIN, "--out", unfinished, "--resume", "--max-epochs", EPOCHS + 2, "--keep", 2, "--save-every", 5)
    assert done.code == 0
    assert f"{EPOCHS + 2} epochs; " in done.out
    assert len(list(unfinished.glob("newest-*"))) == 2


def test_a_finished_run_says_so_and_a_larger_max_epochs_goes_on(mvae: Callable, tmp_path: Path) -> None:
    short = ["--data", "synthetic:60x20", "--out", tmp_path]
    assert mvae("train", *short, "--max-epochs", 2).code == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    again = mvae("train", "--resume", tmp_path)
    assert again.code == 0
    assert (
        "ended at step 2: --max-epochs 2 is reached; a larger one goes on.\n2 epochs; the best one is in" in again.out
    )
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert "resumed from step 2.\n3 epochs; " in mvae("train", "--resume", tmp_path, "--max-epochs", 3).out
    assert mvae("train", *short, "--max-epochs", 1).code == 0  # and another run may follow in the same folder
    assert "ended at step 1: " in mvae("train", "--resume", tmp_path).out


def test_a_run_that_early_stopping_ended_says_so(mvae: Callable, tmp_path: Path) -> None:
    short = ["--data", "synthetic:60x20", "--out", tmp_path, "--patience", 1]
    assert mvae("train", *short, "--max-epochs", 100).code == 0
    assert "val_loss had not fallen for 1 epochs.\n" in mvae("train", "--resume", tmp_path, "--max-epochs", 200).out


def test_torn_and_foreign_files_are_passed_over_and_named(mvae: Callable, unfinished: Path, whole: Path) -> None:
    newest = get_newest_checkpoint(unfinished)
    os.truncate(newest, newest.stat().st_size // 2)
    foreign = torch.load(get_newest_checkpoint(whole), weights_only=True)
    del foreign["callbacks"]["SaveNewest"]
    torch.save(foreign, unfinished / "foreign.ckpt")
    done = mvae("train", "--resume", unfinished)
    assert done.code == 0
    torn, other = sorted(done.err.splitlines(), reverse=True)
    assert torn.startswith(f"mvae: {newest.name} is passed over: ")
    assert other == "mvae: foreign.ckpt is passed over: it was not saved by `mvae train`: no options are in it."
    newest.unlink(missing_ok=True)
    (unfinished / "foreign.ckpt").unlink()
    assert same(end(unfinished), end(whole))


@pytest.mark.parametrize("where", ["nothing", "empty", "foreign.ckpt"])
def test_what_cannot_be_resumed_is_one_message(refused: Callable, tmp_path: Path, where: str) -> None:
    (tmp_path / "empty").mkdir()
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    said = {
        "nothing": "nothing",
        "empty": "There is no checkpoint in",
        "foreign.ckpt": "cannot be resumed from: it was",
    }
    assert said[where] in refused("train", "--resume", tmp_path / where)


def test_the_data_file_is_found_from_another_folder(
    mvae: Callable, ratings_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ratings_csv.parent)
    assert mvae("train", "--data", ratings_csv.name, "--out", tmp_path / "out", "--max-epochs", 1).code == 0
    monkeypatch.chdir(tmp_path)
    assert mvae("train", "--resume", "out", "--max-epochs", 2).code == 0


@pytest.mark.parametrize("every", ["often", "0", "0 min"])
def test_an_interval_that_is_none_is_one_message(refused: Callable, tmp_path: Path, every: str) -> None:
    said = refused("train", "--data", "synthetic:60x20", "--out", tmp_path / "out", "--save-every", every)
    assert said.startswith(f"--save-every: {every!r} is no interval to save at.")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("data", ["synthetic:60", "synthetic:axb", "synthetic:0x20", "synthetic:60x2"])
def test_a_size_that_is_none_is_one_message(refused: Callable, tmp_path: Path, data: str) -> None:
    assert "synthetic" in refused("train", "--data", data, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(os.environ.get("HYPOTHESIS_PROFILE") != "nightly", reason="minutes: three runs of two processes")
def test_two_processes_save_once_and_go_on_to_the_same_end(tmp_path: Path) -> None:
    two = "--devices", 2
    assert start(*TRAIN, *two, "--out", tmp_path / "whole").wait(600) == 0
    code, said = stopped(tmp_path / "again", signal.SIGTERM, *two)
    assert code == 143
    assert said.count("To go on: mvae train --resume") == 1
    resumed = start("train", "--resume", tmp_path / "again")
    out, err = resumed.communicate(timeout=600)
    assert resumed.returncode == 0, err
    assert out.count("resumed from step") == 1
    assert same(end(tmp_path / "again"), end(tmp_path / "whole"))
