"""mvae train: a checkpoint and a table, or one message and exit code 2."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pandas as pd
import pytest

import mvae as package
from mvae import load
from mvae.errors import CheckpointError


def test_training_on_a_csv_prints_sizes_place_and_table(mvae: Callable, ratings_csv: Path, tmp_path: Path) -> None:
    done = mvae("train", "--data", ratings_csv, "--out", tmp_path / "out", "--max-epochs", 2)
    assert done.code == 0
    assert done.err == ""
    (checkpoint,) = (tmp_path / "out").glob("multi-vae-*.ckpt")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "history.csv",
        checkpoint.name,
        "newest-epoch=01-step=2.ckpt",
    ]
    sizes, place, table = done.out.split("\n", 2)
    users = "120 users (66 to train on, 24 for validation, 30 for the test)"
    assert re.fullmatch(re.escape(f"{ratings_csv}: {users}, 40 items, ") + r"1,\d\d\d interactions", sizes)
    assert place == f"2 epochs; the best one is in {checkpoint}"
    assert "30 test users" in table
    for name in ("Mult-VAE", "EASE", "Popularity"):
        assert re.search(rf"{name} +│( +[01]\.\d\d\d │){{3}}", table), table


def test_the_table_has_the_best_model_first_and_the_numbers_of_evaluate(
    mvae: Callable, ratings_csv: Path, tmp_path: Path
) -> None:
    from mvae import EASE, Interactions, InteractionsDataModule, Popularity, evaluate, read_ratings

    done = mvae("train", "--data", ratings_csv, "--out", tmp_path, "--max-epochs", 1, "--seed", 3)
    rows = re.findall(r"│ ([\w-]+) +│ +(\d\.\d+) │ +(\d\.\d+) │ +(\d\.\d+) │", done.out)
    assert [row[1] for row in rows] == sorted((row[1] for row in rows), reverse=True)
    datamodule = InteractionsDataModule(Interactions.from_ratings(read_ratings(ratings_csv)), seed=3)
    (checkpoint,) = tmp_path.glob("multi-vae-*.ckpt")
    scores = {
        "Mult-VAE": load(checkpoint).model,
        "EASE": EASE().fit(datamodule.train),
        "Popularity": Popularity().fit(datamodule.train),
    }
    for name, *shown in rows:
        expected = evaluate(scores.pop(name), datamodule.test_dataloader())
        assert shown == [f"{expected[metric]:.3f}" for metric in ("ndcg@100", "recall@20", "recall@50")]
    assert scores == {}


def test_the_options_reach_the_run(mvae: Callable, ratings_csv: Path, tmp_path: Path) -> None:
    sizes = "--min-rating", 2, "--min-per-user", 6, "--val-users", 10, "--test-users", 20, "--batch-size", 30
    done = mvae("train", "--data", ratings_csv, "--out", tmp_path, "--max-epochs", 4, "--seed", 5, *sizes)
    users = int(re.search(r": (\d+) users", done.out).group(1))
    assert users < 120
    assert f"({users - 30} to train on, 10 for validation, 20 for the test)" in done.out
    history = pd.read_csv(tmp_path / "history.csv")
    assert history["epoch"].max() == 3
    assert len(history) == 4 * -(-(users - 30) // 30)


def test_seed_and_patience_reach_fit(
    mvae: Callable, ratings_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict = {}

    def noted(*_: object, **options: object) -> None:
        given.update(options)
        raise CheckpointError("that is enough")

    monkeypatch.setattr("mvae.training.fit", noted)
    mvae("train", "--data", ratings_csv, "--out", tmp_path, "--seed", 5, "--patience", 7, "--max-epochs", 9)
    (newest,) = given.pop("callbacks")
    assert given == {"out": tmp_path, "seed": 5, "patience": 7, "max_epochs": 9, "resume": False, "devices": 1}
    assert (newest.every, newest.keep, newest.options["seed"]) == (timedelta(minutes=1), 1, 5)


def test_the_same_seed_gives_the_same_checkpoint(mvae: Callable, ratings_csv: Path, tmp_path: Path) -> None:
    def name(seed: int, folder: str) -> str:
        mvae("train", "--data", ratings_csv, "--out", tmp_path / folder, "--max-epochs", 1, "--seed", seed)
        return next((tmp_path / folder).glob("multi-vae-*.ckpt")).name

    assert name(1, "a") == name(1, "b") != name(2, "c")


def test_a_data_set_can_be_a_folder_as_grouplens_publishes_it(mvae: Callable, tmp_path: Path) -> None:
    folder = tmp_path / "downloads"
    folder.mkdir()
    lines = [f"{user},{item},5.0,0" for user in range(30) for item in range(user % 5, 40, 2 + user % 3)]
    (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\n" + "\n".join(lines))
    (folder / "movies.csv").write_text("movieId,title,genres\n" + "\n".join(f"{i},Film {i},Drama" for i in range(40)))
    done = mvae("train", "--data", folder, "--out", tmp_path / "out", "--max-epochs", 1)
    assert (done.code, done.err) == (0, "")
    assert "30 users" in done.out


def test_a_table_without_ratings_is_not_taken_in_silence(mvae: Callable, tmp_path: Path) -> None:
    data = tmp_path / "clicks.csv"
    rows = [f"{user},{item},1" for user in range(30) for item in range(user % 5, 40, 2 + user % 3)]
    data.write_text("user,item,hearts\n" + "\n".join(rows))
    done = mvae("train", "--data", data, "--out", tmp_path / "out", "--max-epochs", 1)
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[0] == (
        f"{data} has no column of ratings (rating, score, stars, overall …): every row counts as liked, and "
        "--min-rating is not used."
    )


# ---- bad input -------------------------------------------------------------------------------------------------

FEW = "".join(f"{user},{item}\n" for user in range(3) for item in range(6))
SHORT = "".join(f"{user},{item}\n" for user in range(30) for item in range(3))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("user,rating\n1,2\n", "no item_id column"),
        ("", "is empty"),
        ("user,item,rating\n", "no ratings"),
        ("user,item,rating\n1,2,good\n", "which is no number"),
        ("user,item\n" + SHORT, "none has 5 items"),
        ("user,item\n" + FEW, "3 users cannot be split"),
        (b"\x89PNG\r\n\x1a\n", "is not a text file"),
    ],
    ids=["no column", "empty", "header only", "no number", "too few items", "too few users", "binary"],
)
def test_a_file_that_cannot_be_trained_on_is_one_message(
    refused: Callable, tmp_path: Path, content: str | bytes, said: str
) -> None:
    data = tmp_path / "ratings.csv"
    data.write_bytes(content if isinstance(content, bytes) else content.encode())
    message = refused("train", "--data", data, "--out", tmp_path / "out")
    assert said in message
    assert len(message.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_messages_name_options_and_not_arguments(refused: Callable, tmp_path: Path) -> None:
    data = tmp_path / "min_rating.csv"
    for content, said in (
        (SHORT, "Lower --min-rating or --min-per-user."),
        (FEW, "Pass a smaller --val-users and --test-users, or use more data."),
    ):
        data.write_text("user,item,rating\n" + content.replace("\n", ",5\n"))
        assert refused("train", "--data", data, "--out", tmp_path / "out").endswith(said)
    data.write_text("user,item\n" + SHORT)
    assert refused("train", "--data", data, "--out", tmp_path / "out").endswith(
        "(the most is 3). Lower --min-per-user."
    )
    data.unlink()
    assert f"There is no file {data}." in refused("train", "--data", data, "--out", tmp_path / "out")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("ml-3m", "There is no data set and no file called 'ml-3m'. Known sets: ml-100k, ml-1m"),
        ("missing.csv", "There is no file missing.csv"),
        ("ml-25m", "MovieLens-25M is not in"),
        (".", "folder without GroupLens' files"),
    ],
)
def test_data_that_is_not_there_is_one_message(
    refused: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert said in refused("train", "--data", data, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_without_a_network_the_message_says_what_to_do(mvae: Callable, tmp_path: Path) -> None:
    done = mvae("train", "--out", tmp_path / "out")
    assert done.code == 2
    assert "Fetching MovieLens-100K" in done.err
    assert "mvae: MovieLens-100K could not be fetched." in done.err
    assert "Without one, put ml-100k.zip" in done.err
    assert "Traceback" not in done.err
    assert done.out == ""


def test_out_must_not_be_a_file(refused: Callable, ratings_csv: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("precious")
    assert "is a file; expected a folder" in refused("train", "--data", ratings_csv, "--out", tmp_path / "out")
    assert refused("train", "--data", ratings_csv, "--out", tmp_path / "out" / "deeper")
    assert (tmp_path / "out").read_text() == "precious"


@pytest.mark.parametrize(
    "options",
    [
        ("--max-epochs", "0"),
        ("--max-epochs", "many"),
        ("--patience", "0"),
        ("--batch-size", "0"),
        ("--min-per-user", "1"),
        ("--val-users", "0"),
        ("--seed", "-1"),
        ("--seed", str(2**32)),
        ("--no-such-option",),
    ],
)
def test_an_option_that_makes_no_sense_is_bad_usage(
    mvae: Callable, ratings_csv: Path, tmp_path: Path, options: tuple
) -> None:
    done = mvae("train", "--data", ratings_csv, "--out", tmp_path / "out", *options)
    assert done.code == 2
    assert options[0] in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "out").exists()


def test_a_run_that_fails_leaves_a_good_checkpoint_alone(
    mvae: Callable, refused: Callable, ratings_csv: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    mvae("train", "--data", ratings_csv, "--out", out, "--max-epochs", 1)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert len(before) == 3
    bad = tmp_path / "bad.csv"
    bad.write_text(ratings_csv.read_text() + "1,2,good,x\n")
    refused("train", "--data", bad, "--out", out)
    refused("train", "--data", ratings_csv, "--out", out, "--test-users", 500)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_disk_that_fills_up_is_one_message(
    refused: Callable, ratings_csv: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mvae.training.fit", full)
    assert "No space left on device" in refused("train", "--data", ratings_csv, "--out", tmp_path)


# ---- the command itself ----------------------------------------------------------------------------------------


def test_help_lists_the_commands(mvae: Callable) -> None:
    for help_option in ("--help", "-h"):
        done = mvae(help_option)
        assert done.code == 0
        assert re.search(r"train +Train Mult-VAE", done.out)
        assert re.search(r"recommend +Recommend from the checkpoint file alone", done.out)


@pytest.mark.parametrize("command", ["train", "recommend"])
def test_help_of_a_command_names_its_options(mvae: Callable, command: str) -> None:
    done = mvae(command, "--help")
    assert done.code == 0
    assert "--data" in done.out


def test_without_arguments_there_is_help(mvae: Callable) -> None:
    done = mvae()
    assert "Usage" in done.out + done.err
    assert done.code in (0, 2)


def test_the_version_is_the_package_s(mvae: Callable) -> None:
    assert mvae("--version") == (0, f"mvae {package.__version__}\n", "")


def test_an_unknown_command_is_bad_usage(mvae: Callable) -> None:
    done = mvae("trian")
    assert done.code == 2
    assert "trian" in done.err


def test_the_command_works_as_a_program(ratings_csv: Path, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(package.__file__).parents[1]), "COLUMNS": "200"}

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", "from mvae.cli import main; main()", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)

    done = run("train", "--data", ratings_csv, "--out", "out", "--max-epochs", 1)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Popularity" in done.stdout
    failed = run("train", "--data", "missing.csv", "--out", "out")
    assert (failed.returncode, failed.stdout) == (2, "")
    assert failed.stderr.startswith("mvae: There is no file missing.csv.")


def test_an_error_of_ours_is_never_a_traceback(mvae: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise CheckpointError("one sentence")

    monkeypatch.setattr(importlib.import_module("mvae.checkpoint.with_torch.loading"), "load", broken)
    assert mvae("recommend", "x.ckpt", "--liked", "1") == (2, "", "mvae: one sentence\n")
