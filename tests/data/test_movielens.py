"""load_movielens(): two routes to one table, nothing half-done left behind, and GroupLens' bigger folders."""

from __future__ import annotations

import hashlib
import http.client
import io
import os
import subprocess
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from mvae import DataError, load_movielens
from mvae.data import movielens
from mvae.data.ratings import clean

REAL_FOLDER = Path(os.environ.get("MVAE_DATA") or Path(__file__).parents[2] / "data")

U_DATA = b"196\t242\t3\t881250949\n186\t267\t5\t891717742\n22\t242\t1\t878887116\n"
FLAGS = {"Comedy": 5, "Children's": 4, "unknown": 0}


def u_item_line(item_id: int, title: str, date: str, *genres: str) -> bytes:
    flags = ["1" if i in {FLAGS[g] for g in genres} else "0" for i in range(19)]
    return "|".join([str(item_id), title, date, "", "http://example.org", *flags]).encode("latin-1") + b"\n"


U_ITEM = (
    u_item_line(242, "Kolya, Le Café (1996)", "24-Jan-1997", "Children's", "Comedy")
    + u_item_line(267, "unknown", "", "unknown")
    + u_item_line(300, "Never Rated (1990)", "01-Jan-1990")
)
RECBOLE_ITEM = (
    "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
    "242\tKolya, Le Café\t1996\tChildren's Comedy\n"
    "267\tunkonwn\tunkonwn\tunknown\n"
    "300\tNever Rated\t1990\t\n"
).encode()
TABLE = [
    (196, 242, 3.0, 881250949, "Kolya, Le Café (1996)", "Children's|Comedy"),
    (186, 267, 5.0, 891717742, "unknown", "unknown"),
    (22, 242, 1.0, 878887116, "Kolya, Le Café (1996)", "Children's|Comedy"),
]


def zipped(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()


OFFICIAL = zipped(**{"ml-100k/u.data": U_DATA, "ml-100k/u.item": U_ITEM})
INSIDE = "recbole/dataset_example/ml-100k/ml-100k"
WHEEL = zipped(**{f"{INSIDE}.inter": b"user_id:token\titem_id:token\n" + U_DATA, f"{INSIDE}.item": RECBOLE_ITEM})


@pytest.fixture(autouse=True)
def _small_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three ratings stand for the hundred thousand."""
    for name, content in (("RATINGS", U_DATA), ("OFFICIAL", OFFICIAL), ("RECBOLE", WHEEL)):
        monkeypatch.setattr(movielens, f"{name}_SHA256", hashlib.sha256(content).hexdigest())


@pytest.fixture
def grouplens(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets what GroupLens' server does: send something, or fail while it is asked or read."""

    def answer(content: bytes | Exception) -> None:
        class Answer(io.BytesIO):
            def read(self, *_: object) -> bytes:
                if isinstance(content, Exception):
                    raise content
                return content

        monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: Answer())

    return answer


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[list[str]]]:
    """Sets what ``pip download`` does; gives the list of its calls."""

    def answer(content: bytes | None = None, error: str = "", hangs: bool = False) -> list[list[str]]:
        calls: list[list[str]] = []

        def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
            calls.append(command)
            if hangs:
                raise subprocess.TimeoutExpired(command, 1)
            if content is not None:
                Path(command[command.index("--dest") + 1], movielens.RECBOLE_WHEEL).write_bytes(content)
            return subprocess.CompletedProcess(command, 1 if error else 0, "", error)

        monkeypatch.setattr(movielens.subprocess, "run", run)
        return calls

    return answer


def rows(table: pd.DataFrame) -> list[tuple]:
    return list(table.itertuples(index=False, name=None))


def refusal(*args: object, **kwargs: object) -> str:
    with pytest.raises(DataError) as caught:
        load_movielens(*args, **{"say": lambda line: None} | kwargs)
    return str(caught.value)


# ---- the two routes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "content"), [("ml-100k.zip", OFFICIAL), (movielens.RECBOLE_WHEEL, WHEEL)])
def test_both_files_hold_the_same_table(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    table = load_movielens("100k", folder=tmp_path)
    assert list(table.columns) == ["user_id", "item_id", "rating", "timestamp", "title", "genres"]
    assert rows(table) == TABLE
    assert table["rating"].dtype == "float32"


@pytest.mark.parametrize("name", ["100k", "ml-100k", "ML-100K"])
def test_the_table_carries_the_name_of_the_set(tmp_path: Path, name: str) -> None:
    (tmp_path / "ml-100k.zip").write_bytes(OFFICIAL)
    assert load_movielens(name, folder=tmp_path).attrs["source"] == "ml-100k"


def test_the_first_route_is_grouplens_and_says_so(tmp_path: Path, grouplens: Callable, pip: Callable) -> None:
    grouplens(OFFICIAL)
    calls, said = pip(WHEEL), []
    assert rows(load_movielens("100k", folder=tmp_path / "new", say=said.append)) == TABLE
    assert calls == []
    assert "GroupLens" in said[0]
    assert "SHA-256 as expected" in said[1]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["ml-100k.zip"]
    assert (tmp_path / "new" / "ml-100k.zip").read_bytes() == OFFICIAL


def test_what_was_fetched_is_not_fetched_again(tmp_path: Path, grouplens: Callable, pip: Callable) -> None:
    grouplens(OFFICIAL)
    load_movielens("100k", folder=tmp_path, say=lambda line: None)
    grouplens(OSError("asked again"))
    pip(error="asked again")
    said: list[str] = []
    assert rows(load_movielens("100k", folder=tmp_path, say=said.append)) == TABLE
    assert said == []


@pytest.mark.parametrize(
    "failure",
    [OSError("unreachable"), TimeoutError("timed out"), http.client.IncompleteRead(b"half"), OFFICIAL[:-1], b"<html>"],
    ids=["no network", "time-out", "connection cut", "half a file", "a web page"],
)
def test_where_grouplens_fails_the_pip_package_is_taken_and_both_are_told(
    tmp_path: Path, grouplens: Callable, pip: Callable, failure: bytes | Exception
) -> None:
    grouplens(failure)
    calls, said = pip(WHEEL), []
    assert rows(load_movielens("100k", folder=tmp_path, say=said.append)) == TABLE
    assert movielens.RECBOLE in calls[0]
    assert "--no-deps" in calls[0]
    assert "did not work" in said[1]
    assert "pip package" in said[2]
    assert [path.name for path in tmp_path.iterdir()] == [movielens.RECBOLE_WHEEL]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"error": "WARNING: slow\nERROR: No matching distribution found"}, "No matching distribution found"),
        ({"content": WHEEL[:-1]}, "not the file we know"),
        ({"hangs": True}, "did not finish"),
        ({}, "no reason given"),
    ],
    ids=["refused", "wrong checksum", "hangs", "nothing came"],
)
def test_where_both_fail_the_message_gives_both_reasons_and_a_way_out(
    tmp_path: Path, grouplens: Callable, pip: Callable, answer: dict, said: str
) -> None:
    grouplens(OSError("unreachable"))
    pip(**answer)
    message = refusal("100k", folder=tmp_path)
    assert "unreachable" in message
    assert said in message
    assert str(tmp_path) in message
    assert movielens.OFFICIAL_URL in message
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_leaves_nothing_behind(
    tmp_path: Path, grouplens: Callable, pip: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    grouplens(OFFICIAL)
    pip(WHEEL)
    monkeypatch.setattr(movielens.os, "replace", full)
    assert "No space left" in refusal("100k", folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_is_fetched_again_and_replaced(tmp_path: Path, grouplens: Callable, pip: Callable) -> None:
    (tmp_path / "ml-100k.zip").write_bytes(OFFICIAL[:-1])
    grouplens(OFFICIAL)
    pip(error="not needed")
    said: list[str] = []
    assert rows(load_movielens("100k", folder=tmp_path, say=said.append)) == TABLE
    assert "is damaged" in said[0]
    assert (tmp_path / "ml-100k.zip").read_bytes() == OFFICIAL


def test_beside_a_damaged_file_a_whole_one_is_enough(tmp_path: Path) -> None:
    (tmp_path / "ml-100k.zip").write_bytes(OFFICIAL[:-1])
    (tmp_path / movielens.RECBOLE_WHEEL).write_bytes(WHEEL)
    assert rows(load_movielens("100k", folder=tmp_path, say=lambda line: None)) == TABLE


@pytest.mark.parametrize("inside", ["", "ml-100k"])
def test_the_unpacked_folder_is_read_too(tmp_path: Path, inside: str) -> None:
    (tmp_path / inside).mkdir(exist_ok=True)
    (tmp_path / inside / "u.data").write_bytes(U_DATA)
    (tmp_path / inside / "u.item").write_bytes(U_ITEM)
    assert rows(load_movielens("100k", folder=tmp_path)) == TABLE


@pytest.mark.parametrize(
    ("u_data", "u_item", "said"),
    [
        (U_DATA[:-1], U_ITEM, "u.data is damaged"),
        (U_DATA, None, "no u.item"),
        (U_DATA, U_ITEM[:-30], "u.item is damaged in line 3"),
        (U_DATA, b"<html>\n" + U_ITEM, "u.item is damaged in line 1"),
    ],
)
def test_a_damaged_unpacked_folder_is_named(tmp_path: Path, u_data: bytes, u_item: bytes | None, said: str) -> None:
    (tmp_path / "u.data").write_bytes(u_data)
    if u_item is not None:
        (tmp_path / "u.item").write_bytes(u_item)
    assert said in refusal("100k", folder=tmp_path)


def test_an_unknown_set_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    message = refusal("3m", folder=tmp_path)
    assert "'3m'" in message
    assert "100k, 1m, 10m, 20m, 25m, 32m" in message


def test_the_folder_can_be_set_from_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ml-100k.zip").write_bytes(OFFICIAL)
    monkeypatch.setenv("MVAE_DATA", str(tmp_path))
    assert rows(load_movielens("100k")) == TABLE


def test_the_command_ends_with_2_and_a_message_where_there_is_no_network(
    capsys: pytest.CaptureFixture[str], pip: Callable
) -> None:
    pip(error="ERROR: no network")
    assert movielens.main() == 2
    captured = capsys.readouterr()
    assert "Fetching" in captured.out
    assert captured.err.startswith("MovieLens-100K could not be fetched.")


@pytest.mark.skipif(
    not any((REAL_FOLDER / name).is_file() for name in ("ml-100k.zip", movielens.RECBOLE_WHEEL)),
    reason="MovieLens-100K has not been fetched: run `make data`",
)
def test_the_real_set_has_the_published_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    table = load_movielens("100k", folder=REAL_FOLDER)
    assert (len(table), table["user_id"].nunique(), table["item_id"].nunique()) == (100_000, 943, 1_682)
    assert table["rating"].value_counts().sort_index().tolist() == [6110, 11370, 27145, 34174, 21201]
    titles = movielens.titles_of(table)
    assert (titles[1], titles[50], titles[267]) == ("Toy Story (1995)", "Star Wars (1977)", "unknown")
    assert not table["title"].isna().any()


# ---- titles for a checkpoint -----------------------------------------------------------------------------------


def test_titles_come_from_what_is_on_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ml-100k.zip").write_bytes(OFFICIAL)
    monkeypatch.setenv("MVAE_DATA", str(tmp_path))
    assert movielens.titles_at_hand("ml-100k") == {242: "Kolya, Le Café (1996)", 267: "unknown"}


@pytest.mark.parametrize("source", ["ml-100k", "ml-25m", "my shop", None])
@pytest.mark.parametrize("damage", [None, "ml-100k.zip", "ml-100k/u.data"])
def test_for_titles_nothing_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grouplens: Callable, pip: Callable, source: str, damage: str
) -> None:
    if damage:
        (tmp_path / damage).parent.mkdir(exist_ok=True)
        (tmp_path / damage).write_bytes(b"damaged")
    monkeypatch.setenv("MVAE_DATA", str(tmp_path))
    grouplens(OFFICIAL)
    assert movielens.titles_at_hand(source) == {}
    assert pip(WHEEL) == []


# ---- the bigger sets -------------------------------------------------------------------------------------------

RATINGS_DAT = "1::1193::{}::978300760\n2::661::3::978302109\n2::1193::1::978302268\n"
MOVIES_DAT = (
    "661::Misérables, Les: The Film (1995)::Drama|Musical\n"
    "914::No Ratings (1964)::Musical\n"
    "1193::Star Trek: 2:1 (1975)::Drama\n"
)
RATINGS_CSV = "userId,movieId,rating,timestamp\n1,1193,{},978300760\n2,661,3.0,978302109\n2,1193,1.0,978302268\n"
MOVIES_CSV = (
    "movieId,title,genres\n"
    '661,"Misérables, Les: The Film (1995)",Drama|Musical\n'
    "914,No Ratings (1964),(no genres listed)\n"
    '1193,"Star ""Trek"": 2:1 (1975)",Drama\n'
)


def publish(folder: Path, name: str, rating: str = "5") -> Path:
    """A folder as GroupLens' zip unpacks to: ``::`` and Latin-1 (1m), ``::`` and UTF-8 (10m), CSV from 20m on."""
    folder.mkdir()
    if name in ("1m", "10m"):
        (folder / "ratings.dat").write_text(RATINGS_DAT.format(rating))
        (folder / "movies.dat").write_text(MOVIES_DAT, encoding="latin-1" if name == "1m" else "utf-8")
    else:
        (folder / "ratings.csv").write_text(RATINGS_CSV.format(rating))
        (folder / "movies.csv").write_text(MOVIES_CSV, encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("name", "folder", "rating", "title"),
    [
        ("1m", "ml-1m", 5.0, "Star Trek: 2:1 (1975)"),
        ("10m", "ml-10M100K", 4.5, "Star Trek: 2:1 (1975)"),
        ("10m", "ml-10m", 4.5, "Star Trek: 2:1 (1975)"),
        ("20m", "ml-20m", 0.5, 'Star "Trek": 2:1 (1975)'),
        ("25m", "ml-25m", 4.5, 'Star "Trek": 2:1 (1975)'),
        ("32m", "ml-32m", 4.5, 'Star "Trek": 2:1 (1975)'),
    ],
)
def test_the_bigger_sets_are_read_as_published(
    tmp_path: Path, name: str, folder: str, rating: float, title: str
) -> None:
    publish(tmp_path / folder, name, f"{rating:g}")
    expected = [
        (1, 1193, rating, 978300760, title, "Drama"),
        (2, 661, 3.0, 978302109, "Misérables, Les: The Film (1995)", "Drama|Musical"),
        (2, 1193, 1.0, 978302268, title, "Drama"),
    ]
    for where in (tmp_path, tmp_path / folder):
        table = load_movielens(name, folder=where)
        assert rows(table) == expected
        assert table.attrs["source"] == f"ml-{name}"


def test_titles_of_a_bigger_set_are_found_without_reading_its_ratings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = publish(tmp_path / "ml-1m", "1m")
    (folder / "ratings.dat").write_text("millions of lines that take a minute")
    monkeypatch.setenv("MVAE_DATA", str(tmp_path))
    assert movielens.titles_at_hand("ml-1m")[1193] == "Star Trek: 2:1 (1975)"


def test_a_film_without_an_entry_has_no_title(tmp_path: Path) -> None:
    folder = publish(tmp_path / "ml-1m", "1m")
    (folder / "movies.dat").write_text("661::Somebody (1990)::Drama\n")
    assert movielens.titles_of(load_movielens("1m", folder=tmp_path)) == {661: "Somebody (1990)"}


@pytest.mark.parametrize("name", ["1m", "10m", "20m", "25m", "32m"])
def test_a_set_that_is_not_there_says_where_to_get_it(tmp_path: Path, name: str) -> None:
    message = refusal(name, folder=tmp_path)
    assert f"ml-{name}.zip" in message
    assert "grouplens.org" in message
    assert str(tmp_path) in message


@pytest.mark.parametrize(
    ("name", "file", "content", "said"),
    [
        ("1m", "movies.dat", None, "no movies.dat"),
        ("25m", "movies.csv", None, "no movies.csv"),
        ("1m", "ratings.dat", "", "not what GroupLens publishes"),
        ("1m", "ratings.dat", MOVIES_DAT, "not what GroupLens publishes"),
        ("1m", "movies.dat", "661::A::B::C\n", "not what GroupLens publishes"),
        ("1m", "movies.dat", "<html>\n", "not what GroupLens publishes"),
        ("1m", "movies.dat", "661::A (1990)::Drama\n661::B (1990)::Drama\n", "a film twice"),
        ("1m", "ratings.dat", "1::661::five::978300760\n", "which is no number"),
        ("25m", "ratings.csv", "user,item,rating\n1,2,3\n", "not what GroupLens publishes"),
        ("25m", "ratings.csv", "userId,movieId,rating,timestamp\n1,,3,4\n", "not what GroupLens publishes"),
        ("25m", "movies.csv", "movieId,title\n661,A\n", "not what GroupLens publishes"),
        ("25m", "movies.csv", "movieId,title,genres\nx,A,B\n", "not what GroupLens publishes"),
    ],
)
def test_a_file_that_is_not_what_grouplens_publishes_is_named(
    tmp_path: Path, name: str, file: str, content: str | None, said: str
) -> None:
    folder = publish(tmp_path / f"ml-{name}", name)
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(content)
    message = refusal(name, folder=tmp_path)
    assert said in message
    assert file in message


def test_ids_that_are_numbers_already_are_not_spelled_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mvae.data.ratings._as_ids", lambda column: pytest.fail("ids were turned into text"))
    clean(pd.DataFrame({"user_id": [1], "item_id": [2]}), "x")
