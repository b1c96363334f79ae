"""read_ratings(): any CSV or TSV file of ratings becomes the one table, or a message that says why not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvae import DataError, read_ratings


def written(folder: Path, content: str | bytes) -> Path:
    path = folder / "ratings.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_ratings(path)
    return str(caught.value)


# ---- what is understood ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [
        "user_id,item_id,rating,timestamp",
        "userId,movieId,rating,timestamp",
        "User ID,Item-ID,Score,Time",
        "uid,iid,stars,ts",
        "reviewerID,asin,overall,unixReviewTime",
        "user_id:token,item_id:token,rating:float,timestamp:float",
    ],
)
def test_columns_are_recognised_by_their_usual_names(tmp_path: Path, header: str) -> None:
    table = read_ratings(written(tmp_path, f"{header}\n7,31,4.5,1112486027\n"))
    assert list(table.columns) == ["user_id", "item_id", "rating", "timestamp"]
    assert table.loc[0, ["user_id", "item_id", "rating"]].tolist() == [7, 31, 4.5]


def test_columns_may_stand_in_any_order_among_others(tmp_path: Path) -> None:
    content = "shop,rating,title,movieId,weather,userId\nS,3,Alien (1979),31,rain,7\n"
    table = read_ratings(written(tmp_path, content))
    assert table.to_dict("records") == [{"rating": 3.0, "title": "Alien (1979)", "item_id": 31, "user_id": 7}]


def test_of_two_columns_for_the_same_thing_the_first_counts(tmp_path: Path) -> None:
    table = read_ratings(written(tmp_path, "userId,movieId,item,rating\n7,31,99,4\n"))
    assert table["item_id"].tolist() == [31]


@pytest.mark.parametrize("separator", [",", "\t", ";", "|", "::"])
@pytest.mark.parametrize("header", ["user,item,rating", None])
def test_the_separator_is_found_in_the_first_line(tmp_path: Path, separator: str, header: str | None) -> None:
    lines = [line for line in (header, "7,31,4.5", "8,32,1") if line]
    table = read_ratings(written(tmp_path, "\n".join(lines).replace(",", separator) + "\n"))
    assert table.to_numpy().tolist() == [[7, 31, 4.5], [8, 32, 1.0]]
    assert list(table.columns) == ["user_id", "item_id", "rating"]


@pytest.mark.parametrize(
    ("line", "columns"),
    [
        ("7,31", ["user_id", "item_id"]),
        ("7,31,4", ["user_id", "item_id", "rating"]),
        ("7,31,4,1112486027", ["user_id", "item_id", "rating", "timestamp"]),
        ("7,31,4,1112486027,web", ["user_id", "item_id", "rating", "timestamp"]),
        ('7,"Alien, the film",4', ["user_id", "item_id", "rating"]),
    ],
)
def test_a_file_without_a_header_is_user_item_rating_timestamp(tmp_path: Path, line: str, columns: list[str]) -> None:
    table = read_ratings(written(tmp_path, f"{line}\n"))
    assert list(table.columns) == columns
    assert len(table) == 1


def test_quotes_hold_separators_quotes_and_line_ends(tmp_path: Path) -> None:
    content = 'user,item,title\n"Smith, J.","say ""hi""","two\nlines"\n'
    table = read_ratings(written(tmp_path, content))
    assert table.loc[0].tolist() == ["Smith, J.", 'say "hi"', "two\nlines"]


@pytest.mark.parametrize("header", ["user,item\n", ""])
def test_a_byte_order_mark_is_no_part_of_the_data(tmp_path: Path, header: str) -> None:
    table = read_ratings(written(tmp_path, b"\xef\xbb\xbf" + f"{header}7,31\n".encode()))
    assert table.to_dict("records") == [{"user_id": 7, "item_id": 31}]


def test_windows_line_ends_and_blank_lines_do_no_harm(tmp_path: Path) -> None:
    table = read_ratings(written(tmp_path, "user,item,rating\r\n7,31,4\r\n\r\n8,32,5\r\n\r\n"))
    assert table["rating"].tolist() == [4.0, 5.0]


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (["7", "31", "-2", "0"], [7, 31, -2, 0]),
        (["007", "31"], ["007", "31"]),
        (["7", "A31"], ["7", "A31"]),
        (["1.0", "2"], ["1.0", "2"]),
        (["NA", "null"], ["NA", "null"]),
        (["12345678901234567890", "1"], ["12345678901234567890", "1"]),
        ([" 7", "31 "], [7, 31]),
    ],
)
def test_ids_become_whole_numbers_only_where_nothing_is_lost(
    tmp_path: Path, ids: list[str], expected: list[object]
) -> None:
    table = read_ratings(written(tmp_path, "user,item\n" + "".join(f"u,{i}\n" for i in ids)))
    assert table["item_id"].tolist() == expected


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=8)
IDS = st.one_of(st.lists(st.integers(-(10**17), 10**17)), st.lists(TEXT.map("id ".__add__)))


@given(
    users=IDS,
    items=IDS,
    ratings=st.lists(st.floats(-1e6, 1e6, width=32)),
    separator=st.sampled_from([",", "\t", ";", "|"]),
    bom=st.booleans(),
)
def test_a_table_that_was_written_reads_back(
    tmp_path_factory: pytest.TempPathFactory,
    users: list[object],
    items: list[object],
    ratings: list[float],
    separator: str,
    bom: bool,
) -> None:
    size = min(len(users), len(items), len(ratings))
    if size == 0:
        return
    columns = {"user_id": users[:size], "item_id": items[:size], "rating": np.array(ratings[:size], np.float32)}
    path = tmp_path_factory.getbasetemp() / "reads-back.csv"
    pd.DataFrame(columns).to_csv(path, sep=separator, index=False, encoding="utf-8-sig" if bom else "utf-8")
    table = read_ratings(path)
    assert table["user_id"].tolist() == users[:size]
    assert table["item_id"].tolist() == items[:size]
    assert table["rating"].tolist() == columns["rating"].tolist()


# ---- what is refused -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "missing"),
    [
        ("user_id,rating", "item_id"),
        ("movieId,rating", "user_id"),
        ("rating,timestamp", "user_id and no item_id"),
        ("alpha,beta", "user_id and no item_id"),
    ],
)
def test_a_missing_column_is_named_beside_those_that_are_there(tmp_path: Path, header: str, missing: str) -> None:
    message = refusal(written(tmp_path, f"{header}\n1,2\n"))
    assert f"no {missing} column" in message
    assert header.replace(",", ", ") in message


def test_a_single_column_of_numbers_is_not_enough(tmp_path: Path) -> None:
    assert "only 1 column" in refusal(written(tmp_path, "17\n18\n"))


@pytest.mark.parametrize("content", ["", "\n", "  \n\n", "\ufeff"])
def test_an_empty_file_is_called_empty(tmp_path: Path, content: str) -> None:
    assert "is empty" in refusal(written(tmp_path, content))


def test_a_header_alone_has_no_ratings(tmp_path: Path) -> None:
    assert "no ratings" in refusal(written(tmp_path, "user,item,rating\n"))


@pytest.mark.parametrize("rating", ["four", "", "4,5", "inf", "nan", "0x4"])
def test_a_rating_that_is_no_number_is_shown_with_its_row(tmp_path: Path, rating: str) -> None:
    message = refusal(written(tmp_path, f'user,item,rating\n1,2,3\n1,3,"{rating}"\n'))
    assert f"rating in row 2 is {rating!r}, which is no number" in message


def test_more_rows_at_fault_are_counted(tmp_path: Path) -> None:
    assert "row 1 and 2 more" in refusal(written(tmp_path, "user,item,rating\n1,2,x\n1,3,y\n1,4,z\n"))


@pytest.mark.parametrize(("line", "column"), [(",3,4", "user_id"), ("1,,4", "item_id"), ("1,  ,4", "item_id")])
def test_an_empty_id_is_shown_with_its_row(tmp_path: Path, line: str, column: str) -> None:
    assert f"{column} is empty in row 2" in refusal(written(tmp_path, f"user,item,rating\n1,2,3\n{line}\n"))


def test_a_line_that_stops_early_has_no_rating(tmp_path: Path) -> None:
    assert "rating in row 2" in refusal(written(tmp_path, "user,item,rating\n1,2,3\n1,3\n"))


@pytest.mark.parametrize(
    "content",
    [
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
        "user,item\n1,2\n".encode("utf-16"),
        b"user,item\n1,2\n\xff\xfe\n",
        b"user,item\n" + b"1,2\n" * 3_000 + b"\xff\xfe\n",
        b"PK\x03\x04" + bytes(40),
        b"{" + b'"a": 1' * 50_000,
        b'user,item\n1,2\n3,"4\n',
    ],
    ids=["png", "utf-16", "second line", "late", "zip", "one long line", "quote left open"],
)
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, content: bytes) -> None:
    path = written(tmp_path, content)
    message = refusal(path)
    assert str(path) in message
    assert len(message) < 400


def test_a_folder_and_a_file_that_is_not_there_are_told_apart(tmp_path: Path) -> None:
    assert "is a folder" in refusal(tmp_path)
    assert "There is no file" in refusal(tmp_path / "missing.csv")
