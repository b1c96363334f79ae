"""Ratings from any CSV or TSV file.

Everywhere in this package ratings are one DataFrame with the columns `user_id, item_id` and, where they are
known, `rating, timestamp, title, genres`. One row is one person's rating of one item.
"""

from __future__ import annotations

import csv
from collections.abc import Hashable
from pathlib import Path

import pandas as pd

from mvae.errors import DataError

#: What people call the columns. A name is compared in lower case, without spaces, "_" and RecBole's ":token".
COLUMN_NAMES = {
    "user_id": ("userid", "user", "uid", "customerid", "reviewerid", "visitorid"),
    "item_id": ("itemid", "item", "iid", "movieid", "movie", "productid", "asin", "bookid", "songid", "isbn"),
    "rating": ("rating", "score", "stars", "overall", "bookrating"),
    "timestamp": ("timestamp", "time", "ts", "unixreviewtime", "date"),
    "title": ("title", "movietitle", "itemtitle", "name"),
    "genres": ("genres", "genre"),
}
_STANDARD_NAME = {spelling: column for column, spellings in COLUMN_NAMES.items() for spelling in spellings}


def read_ratings(path: str | Path) -> pd.DataFrame:
    """Read a CSV or TSV file of ratings, with or without a header line.

    Columns are recognised by their usual names (`userId`, `movie_id`, `score`, …; see
    `COLUMN_NAMES`), the separator (`,`, tab, `;`, `|` or `::`) from the first line. A file
    without a header is read as `user, item[, rating[, timestamp]]`. Other columns are left out.

    Returns:
        One row a rating: `user_id` and `item_id` (int, or str where they are not all whole numbers) and,
        where the file has them, `rating` (float), `timestamp`, `title` and `genres`.

    Raises:
        DataError: no such file, an empty file, no user or item column, an empty id, a rating that is no number.
    """
    path = Path(path)
    lines = _first_lines(path)
    separator = _separator(lines[0])
    try:
        fields = _fields(lines[0], separator)
    except csv.Error as error:
        raise DataError(f"{path} cannot be read as a table: the first line: {error}.") from None
    header = _header(fields, path)
    if header is None:
        names = ["user_id", "item_id", "rating", "timestamp"]
        width = len(fields)
        if width < 2:
            raise DataError(
                f"{path} has no header that names a user and an item column, and only {width} column: "
                f"{lines[0][:60]!r}. Expected a line such as 'user_id,item_id,rating'."
            )
        header = {name: position for position, name in enumerate(names[:width])}
        skip = 0
    else:
        skip = 1
    table = _read_table(path, separator, header, skip)
    if table.empty:
        raise DataError(f"{path} has a header and no ratings. Expected one line for each rating.")
    return clean(table, path)


def clean(table: pd.DataFrame, path: str | Path) -> pd.DataFrame:
    """Check ids and ratings that were read as text, and give them their types.

    Raises:
        DataError: an empty id, or a rating that is no number; it names the first line at fault.
    """
    for column in ("user_id", "item_id"):
        if pd.api.types.is_integer_dtype(table[column]):
            continue  # as text, the 32 million ids of the largest set would take minutes and gigabytes
        missing = table[column].isna() | (table[column].astype(str).str.strip() == "")
        if missing.any():
            raise DataError(f"{path}: {column} is empty in {_where(table, missing)}. Every rating needs one.")
        table[column] = _as_ids(table[column])
    if "rating" in table:
        rating = pd.to_numeric(table["rating"], errors="coerce")
        wrong = rating.isna() | (rating.abs() == float("inf"))
        if wrong.any():
            found = table["rating"][wrong].iloc[0]
            raise DataError(
                f"{path}: the rating in {_where(table, wrong)} is {found!r}, which is no number. "
                "Expected a number such as 4 or 3.5; correct the line or delete it."
            )
        table["rating"] = rating.astype("float32")
    return table.reset_index(drop=True)


def titles_of(table: pd.DataFrame) -> dict[Hashable, str]:
    """Item id → title, for the items of a table that have one; empty where it has no such column."""
    if "title" not in table:
        return {}
    known = table.dropna(subset=["title"]).drop_duplicates("item_id")
    return dict(zip(known["item_id"].tolist(), known["title"].astype(str), strict=True))


def _first_lines(path: Path) -> list[str]:
    if path.is_dir():
        raise DataError(f"{path} is a folder; expected a CSV or TSV file of ratings.")
    if not path.exists():
        raise DataError(f"There is no file {path}. Expected a CSV or TSV file of ratings: check the path.")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = [line.rstrip("\r\n") for _, line in zip(range(2), file, strict=False)]
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not a text file in UTF-8 ({error.reason} at byte {error.start}).") from None
    if not lines or not lines[0].strip():
        raise DataError(f"{path} is empty. Expected a header such as 'user_id,item_id,rating', then the ratings.")
    return lines


def _separator(line: str) -> str:
    return next((s for s in ("::", "\t", ",", ";", "|") if s in line), ",")


def _fields(line: str, separator: str) -> list[str]:
    return next(csv.reader([line], delimiter=separator)) if len(separator) == 1 else line.split(separator)


def _header(fields: list[str], path: Path) -> dict[str, int] | None:
    """Standard column name → position, or None where the first line is already a rating."""
    plain = [f.strip().lower().split(":")[0].replace("_", "").replace(" ", "").replace("-", "") for f in fields]
    found: dict[str, int] = {}
    for position, name in enumerate(plain):
        if name in _STANDARD_NAME:
            found.setdefault(_STANDARD_NAME[name], position)
    if not found and any(_is_number(field) for field in fields):
        return None
    missing = [column for column in ("user_id", "item_id") if column not in found]
    if missing:
        raise DataError(
            f"{path}: no {' and no '.join(missing)} column among {', '.join(fields)[:120]!r}. Expected names such "
            "as user_id, item_id, rating (userId, movieId, score … are known too): rename the column."
        )
    return found


def _read_table(path: Path, separator: str, header: dict[str, int], skip: int) -> pd.DataFrame:
    # Ids as text first: pandas would turn "007" into 7, and one missing id would make all of them floats.
    try:
        table = pd.read_csv(
            path,
            sep=separator,
            engine="c" if len(separator) == 1 else "python",
            header=None,
            skiprows=skip,
            usecols=sorted(header.values()),
            dtype=str,
            keep_default_na=False,
            skip_blank_lines=True,
            encoding="utf-8-sig",
        )
    except pd.errors.EmptyDataError:
        return pd.DataFrame({name: [] for name in header})
    except (pd.errors.ParserError, UnicodeDecodeError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a table with {separator!r} between the columns: {error}") from None
    position_to_name = {position: name for name, position in header.items()}
    return table.rename(columns=position_to_name)[list(header)]


def _as_ids(column: pd.Series) -> pd.Series:
    """Whole numbers where all of them are, without leading zeros that would be lost; else text."""
    text = column.astype(str).str.strip()
    if text.str.fullmatch(r"0|-?[1-9]\d{0,17}").all():
        return text.astype("int64")
    return text.astype(object)


def _where(table: pd.DataFrame, mask: pd.Series) -> str:
    more = int(mask.sum()) - 1
    return f"row {int(table.index[mask][0]) + 1}" + (f" and {more:,} more" if more else "")


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True
