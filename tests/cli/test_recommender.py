"""mvae recommend: from the checkpoint alone by item id, and by title where the data is at hand."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mvae import DataError, load
from mvae.cli.recommender import find_item

TITLES = {
    1: "Alien (1979)",
    2: "Aliens (1986)",
    3: "Misérables, Les (1995)",
    4: "Twice Told (1963)",
    5: "Twice Told (1963)",
    6: "7 (1995)",
    7: "Alien³ (1992)",
    8: "",
    9: "1984 (1984)",
}


# ---- which item is meant ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "item_id"),
    [
        ("3", 3),
        ("7", 7),  # an id, though a film is called 7
        ("Alien (1979)", 1),
        ("alien", 1),  # the whole title without its year, though others begin so
        ("ALIENS", 2),
        ("miséra", 3),
        ("les (1995)", 3),
        ("  Aliens ", 2),
        ("1984", 9),  # no id, but a whole title
        ("(1992)", 7),
    ],
)
def test_an_id_a_title_or_a_part_that_only_one_title_has(text: str, item_id: int) -> None:
    assert find_item(text, TITLES) == item_id


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("twice told", "matches 2 items: Twice Told (1963) (id 4); Twice Told (1963) (id 5)"),
        ("alie", "matches 3 items: Alien (1979) (id 1); Aliens (1986) (id 2); Alien³ (1992) (id 7)"),
        ("98", "matches no item id and no title"),
        ("Misarables, Les", "Near it: Misérables, Les (1995)"),
        ("", "matches no item id and no title"),
        ("   ", "matches no item id and no title"),
    ],
)
def test_several_or_none_are_refused_with_the_nearest(text: str, said: str) -> None:
    with pytest.raises(DataError) as caught:
        find_item(text, TITLES)
    assert said in str(caught.value)


def test_many_matches_are_counted_and_eight_are_shown() -> None:
    with pytest.raises(DataError, match=r"matches 20 items: .*\(id 7\); and 12 more\. Give the whole title"):
        find_item("film", {i: f"Film {i} (1990)" for i in range(20)})


def test_without_titles_only_ids_are_understood() -> None:
    assert find_item("b", {"a": "", "b": ""}) == "b"
    with pytest.raises(DataError, match="not one of the 2 item ids of this checkpoint, and no titles are at hand"):
        find_item("Alien", {"a": "", "b": ""})


@pytest.mark.parametrize("text", ["12", "t-men", "T-Men (1947)", "men (1947)", "alien"])
def test_an_item_that_the_model_never_saw_is_named_and_refused(text: str) -> None:
    unseen = {12: "T-Men (1947)"} if text != "alien" else {12: "Alien (2017)", 13: "Aliens again (2017)"}
    known = {item_id: title for item_id, title in TITLES.items() if item_id != 1}
    with pytest.raises(DataError, match=r"\(id 12\).* not among the 8 items that the model was trained on"):
        find_item(text, known, unseen)


def test_what_the_model_knows_comes_before_what_it_does_not() -> None:
    assert find_item("1984", TITLES, {12: "1984 (1956)"}) == 9
    assert find_item("3", TITLES, {12: "3 (2000)"}) == 3


# ---- the command -----------------------------------------------------------------------------------------------


def test_recommendations_by_id_are_those_of_load(mvae: Callable, checkpoint: Path) -> None:
    done = mvae("recommend", checkpoint, "--liked", 110, "--liked", 111, "--top", 4, "--json")
    assert (done.code, done.err) == (0, "")
    expected = load(checkpoint).recommend([110, 111], top=4)
    assert json.loads(done.out) == {
        "checkpoint": str(checkpoint),
        "liked": [{"item_id": 110, "title": None}, {"item_id": 111, "title": None}],
        "recommendations": [
            {"rank": rank, "item_id": r.item_id, "title": None, "probability": r.probability}
            for rank, r in enumerate(expected, start=1)
        ],
    }


def test_with_the_data_titles_are_understood_and_shown(mvae: Callable, checkpoint: Path, ratings_csv: Path) -> None:
    options = "--liked", "Misérables", "--liked", "aliens", "--data", ratings_csv, "--json"
    answer = json.loads(mvae("recommend", checkpoint, *options).out)
    assert answer["liked"] == [
        {"item_id": 102, "title": "Misérables, Les (1995)"},
        {"item_id": 101, "title": "Aliens (1986)"},
    ]
    assert len(answer["recommendations"]) == 10
    titles = {r["item_id"]: r["title"] for r in answer["recommendations"]}
    assert all(title == f"Film number {item_id} (1990)" for item_id, title in titles.items() if item_id > 106)


def test_the_table_has_rank_id_title_and_probability(mvae: Callable, checkpoint: Path, ratings_csv: Path) -> None:
    done = mvae("recommend", checkpoint, "--liked", "110", "--data", ratings_csv, "--top", 40)
    assert done.out.startswith("For somebody who likes Film number 110 (1990):\n")
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.out.splitlines() if line.startswith("│")]
    assert len(cells) == 39
    assert [row[0] for row in cells] == [str(rank) for rank in range(1, 40)]
    by_id = {row[1]: row[2] for row in cells}
    assert (by_id["100"], by_id["106"], by_id["139"]) == ("Alien (1979)", "–", "Film number 139 (1990)")
    probabilities = [float(row[3]) for row in cells]
    assert probabilities == sorted(probabilities, reverse=True)


def test_a_title_that_looks_like_markup_is_shown_as_it_is(mvae: Callable, checkpoint: Path, ratings_csv: Path) -> None:
    done = mvae("recommend", checkpoint, "--liked", "heat", "--data", ratings_csv)
    assert (done.code, done.err) == (0, "")
    assert "For somebody who likes [red]Heat[/] [/bold] (1995):" in done.out
    done = mvae("recommend", checkpoint, "--liked", "110", "--data", ratings_csv, "--top", 40)
    assert "│ [red]Heat[/] [/bold] (1995)" in done.out


def test_a_folder_stands_for_its_best_checkpoint(mvae: Callable, checkpoint: Path) -> None:
    answer = json.loads(mvae("recommend", checkpoint.parent, "--liked", 110, "--json").out)
    assert answer["checkpoint"] == str(checkpoint)


def test_the_checkpoint_file_alone_is_enough(mvae: Callable, checkpoint: Path, tmp_path: Path) -> None:
    shutil.copyfile(checkpoint, tmp_path / "alone.ckpt")
    done = mvae("recommend", tmp_path / "alone.ckpt", "--liked", 110)
    assert done.code == 0
    assert "For somebody who likes 110:" in done.out


def test_titles_of_movielens_are_used_where_it_is_on_this_machine(
    mvae: Callable, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mvae.data.movielens.titles_at_hand", lambda source: {110: "Heat (1995)"})
    answer = json.loads(mvae("recommend", checkpoint, "--liked", "heat", "--json").out)
    assert answer["liked"] == [{"item_id": 110, "title": "Heat (1995)"}]


# ---- bad input -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("liked", "said"),
    [
        ("999", "'999' matches no item id and no title"),
        ("twice", "matches 2 items: Twice Told (1963) (id 103); Twice Told (1963) (id 104)"),
        ("Alein", "Near it: "),
    ],
)
def test_a_liked_that_matches_nothing_or_several_is_one_message(
    refused: Callable, checkpoint: Path, ratings_csv: Path, liked: str, said: str
) -> None:
    message = refused("recommend", checkpoint, "--liked", liked, "--data", ratings_csv)
    assert said in message
    assert len(message.splitlines()) == 1


def test_a_title_without_data_says_that_data_is_needed(refused: Callable, checkpoint: Path) -> None:
    assert "with --data" in refused("recommend", checkpoint, "--liked", "Alien")


def test_a_file_that_is_no_good_is_one_message(refused: Callable, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "text.ckpt").write_text("hello, this is no checkpoint")
    (tmp_path / "cut.ckpt").write_bytes(checkpoint.read_bytes()[:-100])
    (tmp_path / "empty").mkdir()
    for path, said in (
        (tmp_path / "last.ckpt", "There is no file"),
        (tmp_path / "text.ckpt", "is not a checkpoint"),
        (tmp_path / "cut.ckpt", "cut off"),
        (tmp_path / "empty", "no readable .ckpt file"),
    ):
        message = refused("recommend", path, "--liked", "110")
        assert said in message
        assert len(message.splitlines()) == 1


def test_a_film_of_the_data_that_nobody_liked_is_said_to_be_one(
    refused: Callable, checkpoint: Path, ratings_csv: Path, tmp_path: Path
) -> None:
    data = tmp_path / "films.csv"
    data.write_text(ratings_csv.read_text(encoding="utf-8") + '1,777,1,"T-Men (1947)"\n', encoding="utf-8")
    for liked in ("777", "t-men"):
        message = refused("recommend", checkpoint, "--liked", liked, "--data", data)
        assert message.startswith(f"{liked!r} is T-Men (1947) (id 777): not among the 40 items")


def test_data_without_titles_is_one_message(refused: Callable, checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "ratings.csv").write_text("user,item\n1,110\n")
    message = refused("recommend", checkpoint, "--liked", "110", "--data", tmp_path / "ratings.csv")
    assert "no title column" in message


@pytest.mark.parametrize("options", [("--top", "0"), ("--top", "x"), ()])
def test_bad_usage_ends_with_2(mvae: Callable, checkpoint: Path, options: tuple) -> None:
    liked = ("--liked", "110") if options else ()
    done = mvae("recommend", checkpoint, *liked, *options)
    assert done.code == 2
    assert (options[0] if options else "--liked") in done.err
