"""MovieLens: the real ratings this course works on (F. M. Harper and J. A. Konstan 2015, doi 10.1145/2827872).

GroupLens does not allow the sets to be redistributed, so they are not in this repository. ML-100K is fetched once,
by one of two routes, and kept under `data/`; the bigger sets are read from the folders GroupLens publishes.
"""

from __future__ import annotations

import hashlib
import http.client
import io
import os
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from collections.abc import Callable, Hashable
from pathlib import Path

import pandas as pd

from mvae.data.ratings import clean, titles_of
from mvae.durable import durable_file
from mvae.errors import DataError

#: u.data, the 100,000 ratings. RecBole's copy is the same file under another name, with a header line on top:
#: so one checksum proves both routes.
RATINGS_SHA256 = "06416e597f82b7342361e41163890c81036900f418ad91315590814211dca490"
OFFICIAL_URL = "https://files.grouplens.org/datasets/movielens/ml-100k.zip"
OFFICIAL_SHA256 = "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229"
RECBOLE = "recbole==1.2.1"
RECBOLE_WHEEL = "recbole-1.2.1-py3-none-any.whl"
RECBOLE_SHA256 = "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"
TIMEOUT_SECONDS = 10

#: Folder layouts of the bigger sets: ratings file, movies file, separator.
FOLDERS = {
    "1m": ("ratings.dat", "movies.dat", "::"),
    "10m": ("ratings.dat", "movies.dat", "::"),
    "20m": ("ratings.csv", "movies.csv", ","),
    "25m": ("ratings.csv", "movies.csv", ","),
    "32m": ("ratings.csv", "movies.csv", ","),
}
#: Column in a header of GroupLens → column here.
RATINGS_COLUMNS = {"userId": "user_id", "movieId": "item_id", "rating": "rating", "timestamp": "timestamp"}
MOVIES_COLUMNS = {"movieId": "item_id", "title": "title", "genres": "genres"}
GENRES = [
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
]  # fmt: skip


def data_folder() -> Path:
    """`$MVAE_DATA`; else the `data/` of the checkout this package runs from; else `data/` here."""
    if folder := os.environ.get("MVAE_DATA"):
        return Path(folder)
    checkout = Path(__file__).resolve().parents[2]
    return checkout / "data" if (checkout / "pyproject.toml").exists() else Path("data")


def load_movielens(
    name: str = "100k", folder: str | Path | None = None, say: Callable[[str], None] = print
) -> pd.DataFrame:
    """Load a MovieLens set as one table with titles and genres.

    Args:
        name: `"100k"` (fetched once if it is not there) or `"1m"`, `"10m"`, `"20m"`, `"25m"`, `"32m"`
            (unpack GroupLens' zip first). `"ml-100k"` is understood too.
        folder: where the sets are kept, or the `ml-…` folder itself. Default: `data_folder`.
        say: what is told about fetching goes here, a line at a time.

    Returns:
        One row a rating: `user_id` (int), `item_id` (int), `rating` (float, 0.5–5), `timestamp` (int,
        seconds since 1970), `title` (str, with the year), `genres` (str, separated by `|`).

    Raises:
        DataError: an unknown name; a set that is not there and cannot be fetched; a file that is not what
            GroupLens published.
    """
    short = str(name).lower().removeprefix("ml-")
    root = Path(folder) if folder is not None else data_folder()
    if short == "100k":
        ratings = _load_100k(root, say)
    elif short in FOLDERS:
        ratings = _read_folder(short, root)
    else:
        known = ", ".join(["100k", *FOLDERS])
        raise DataError(f"There is no MovieLens set called {name!r}. Known sets: {known}.")
    ratings.attrs["source"] = f"ml-{short}"
    return ratings


def titles_at_hand(source: str | None) -> dict[Hashable, str]:
    """Item id → title of a MovieLens set that is on this machine already; nothing is fetched."""
    name = str(source).removeprefix("ml-")
    try:
        if name == "100k":
            table = _cached_100k(data_folder(), say=lambda line: None)
        else:  # of the bigger sets the ratings are not read: that would take a minute
            table = _read_movies(name, _find_folder(name, data_folder())) if name in FOLDERS else None
    except (DataError, OSError):
        return {}
    return {} if table is None else titles_of(table)


# ---- ML-100K: two routes to the same 100,000 lines -------------------------------------------------------------


def _load_100k(root: Path, say: Callable[[str], None]) -> pd.DataFrame:
    cached = _cached_100k(root, say)
    if cached is not None:
        return cached
    problems = []
    for fetch, (archive, sha256, read) in zip((_fetch_official, _fetch_recbole), _archives_100k(root), strict=True):
        try:
            _keep(archive, fetch(say), sha256)
            say(f"MovieLens-100K is in {archive.name}, SHA-256 as expected.")
            return read(archive)
        except (OSError, DataError) as error:
            problems.append(str(error))
            say(f"  that did not work: {error}")
    raise DataError(
        "MovieLens-100K could not be fetched.\n  "
        + "\n  ".join(problems)
        + f"\nWith a network, run the same command again. Without one, put ml-100k.zip from {OFFICIAL_URL} into "
        f"{root}, or work on synthetic(…) data."
    )


def _archives_100k(root: Path) -> list[tuple[Path, str, Callable[[Path], pd.DataFrame]]]:
    return [
        (root / "ml-100k.zip", OFFICIAL_SHA256, _read_official),
        (root / RECBOLE_WHEEL, RECBOLE_SHA256, _read_recbole),
    ]


def _cached_100k(root: Path, say: Callable[[str], None]) -> pd.DataFrame | None:
    """ML-100K from what is in the folder already, unpacked or not; None where nothing whole is there."""
    for folder in (root, root / "ml-100k"):
        ratings, movies = folder / "u.data", folder / "u.item"
        if ratings.is_file():
            if not movies.is_file():
                raise DataError(f"{folder} has u.data but no u.item; unpack ml-100k.zip again, or delete u.data.")
            return _parse_100k(ratings.read_bytes(), _official_titles(movies.read_bytes()))
    for archive, sha256, read in _archives_100k(root):
        if archive.is_file():
            found = _sha256(archive.read_bytes())
            if found == sha256:
                return read(archive)
            say(f"{archive} is damaged or not the file we know (SHA-256 {found[:12]}…), and is passed over.")
    return None


def _fetch_official(say: Callable[[str], None]) -> bytes:
    say(f"Fetching MovieLens-100K from GroupLens ({OFFICIAL_URL}, 5 MB) …")
    try:
        with urllib.request.urlopen(OFFICIAL_URL, timeout=TIMEOUT_SECONDS) as answer:
            content: bytes = answer.read()
            return content
    except (OSError, http.client.HTTPException) as error:
        raise DataError(f"GroupLens did not send it: {getattr(error, 'reason', '') or error!r}") from None


def _fetch_recbole(say: Callable[[str], None]) -> bytes:
    say(f"Fetching it from the pip package {RECBOLE}, which carries a copy (2 MB; nothing of it is installed) …")
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        pip += ["--only-binary=:all:", f"--timeout={TIMEOUT_SECONDS}", "--retries=1", "--dest", folder]
        try:
            done = subprocess.run([*pip, RECBOLE], capture_output=True, text=True, timeout=12 * TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            raise DataError(f"pip did not finish downloading {RECBOLE}.") from None
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            why = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise DataError(f"pip could not download {RECBOLE}: {why}")
        return wheels[0].read_bytes()


def _keep(path: Path, content: bytes, sha256: str) -> None:
    """Check, then put in place in one step: a half-written file never stands under the final name."""
    found = _sha256(content)
    if found != sha256:
        raise DataError(
            f"what came for {path.name} is not the file we know ({len(content):,} bytes, SHA-256 {found[:12]}…, "
            f"expected {sha256[:12]}…). It was thrown away."
        )
    with durable_file(path) as file:
        file.write(content)


def _read_official(archive: Path) -> pd.DataFrame:
    with zipfile.ZipFile(archive) as zf:
        return _parse_100k(zf.read("ml-100k/u.data"), _official_titles(zf.read("ml-100k/u.item")))


def _read_recbole(archive: Path) -> pd.DataFrame:
    inside = "recbole/dataset_example/ml-100k/ml-100k"
    with zipfile.ZipFile(archive) as zf:
        ratings = zf.read(f"{inside}.inter").split(b"\n", 1)[1]
        movies = zf.read(f"{inside}.item").decode("utf-8").splitlines()[1:]
    rows = []
    for line in movies:
        item_id, title, year, genres = line.split("\t")
        # Item 267 has neither title nor year; RecBole spells that "unkonwn".
        full = "unknown" if year == "unkonwn" else f"{title} ({year})"
        rows.append((int(item_id), full, "|".join(genres.split())))
    return _parse_100k(ratings, pd.DataFrame(rows, columns=["item_id", "title", "genres"]))


def _official_titles(u_item: bytes) -> pd.DataFrame:
    rows = []
    for number, line in enumerate(u_item.decode("latin-1").splitlines(), start=1):
        fields = line.split("|")
        flags = fields[-len(GENRES) :]
        if len(fields) != 5 + len(GENRES) or not fields[0].isdecimal():
            raise DataError(f"u.item is damaged in line {number}: {line[:60]!r}. Unpack ml-100k.zip again.")
        genres = "|".join(genre for genre, flag in zip(GENRES, flags, strict=True) if flag == "1")
        rows.append((int(fields[0]), fields[1].strip(), genres))
    return pd.DataFrame(rows, columns=["item_id", "title", "genres"])


def _parse_100k(u_data: bytes, movies: pd.DataFrame) -> pd.DataFrame:
    found = _sha256(u_data)
    if found != RATINGS_SHA256:
        raise DataError(
            f"The ratings of ML-100K have {len(u_data):,} bytes and SHA-256 {found[:12]}…, expected 1,979,173 bytes "
            f"and {RATINGS_SHA256[:12]}…: u.data is damaged. Delete it and run the same command again."
        )
    columns = ["user_id", "item_id", "rating", "timestamp"]
    ratings = pd.read_csv(io.BytesIO(u_data), sep="\t", names=columns).astype({"rating": "float32"})
    return ratings.merge(movies, on="item_id", how="left", validate="many_to_one")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# ---- the bigger sets: GroupLens' own folders -------------------------------------------------------------------


def _read_folder(short: str, root: Path) -> pd.DataFrame:
    folder = _find_folder(short, root)
    ratings_name, _, separator = FOLDERS[short]
    movies = _read_movies(short, folder)
    ratings = clean(_read_columns(folder / ratings_name, separator, RATINGS_COLUMNS), folder / ratings_name)
    return ratings.merge(movies, on="item_id", how="left")


def _find_folder(short: str, root: Path) -> Path:
    ratings_name, movies_name, _ = FOLDERS[short]
    candidates = [root, root / f"ml-{short}"] + ([root / "ml-10M100K"] if short == "10m" else [])
    folder = next((f for f in candidates if (f / ratings_name).is_file()), None)
    if folder is None:
        raise DataError(
            f"MovieLens-{short.upper()} is not in {root / f'ml-{short}'}: expected {ratings_name} and {movies_name} "
            f"there. Get ml-{short}.zip from https://grouplens.org/datasets/movielens/ and unpack it into {root}."
        )
    if not (folder / movies_name).is_file():
        raise DataError(f"{folder} has {ratings_name} but no {movies_name}; unpack ml-{short}.zip again.")
    return folder


def _read_movies(short: str, folder: Path) -> pd.DataFrame:
    _, movies_name, separator = FOLDERS[short]
    movies = _read_columns(folder / movies_name, separator, MOVIES_COLUMNS)
    if movies["item_id"].duplicated().any():
        raise DataError(f"{folder / movies_name} has a film twice; unpack ml-{short}.zip again.")
    return movies


def _read_columns(path: Path, separator: str, columns: dict[str, str]) -> pd.DataFrame:
    """A GroupLens file: `::` without a header up to 10M, CSV with one from 20M on.

    Args:
        path: of the file.
        separator: between the columns.
        columns: the name in a header of GroupLens → the name in this package.
    """
    names = list(columns.values())
    try:
        if separator == ",":
            table = pd.read_csv(path, usecols=list(columns), encoding="utf-8")[list(columns)]
        elif "title" in names:
            # pandas' fast parser takes one character only, and titles have single colons of their own.
            rows = [line.split(separator) for line in _text(path).splitlines() if line]
            table = pd.DataFrame(rows, columns=names)
        else:
            # "::" is read as ":", and the empty columns between are left out.
            table = pd.read_csv(path, sep=":", header=None, usecols=[0, 2, 4, 6])
        return table.set_axis(names, axis="columns").astype({"item_id": "int64"})
    except ValueError as error:  # every error of pandas' parser is one
        raise DataError(f"{path} is not what GroupLens publishes under that name: {error}") from None


def _text(path: Path) -> str:
    """Latin-1 in the 1M set, UTF-8 in the 10M set, where the README calls it a departure from earlier sets."""
    content = path.read_bytes()
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def main() -> int:
    """`python -m mvae.data.movielens`: fetch ML-100K if it is not there; what `make` runs."""
    try:
        load_movielens("100k", say=lambda line: print(line, flush=True))
    except DataError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
