"""``mvae train`` and ``mvae recommend``. What is heavy is imported when a command runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mvae.cli.options import Parser, whole
from mvae.errors import DataError

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Hashable

    import pandas as pd
    from rich.table import Table

    from mvae.data import InteractionsDataModule
    from mvae.models import ItemModel

#: EASE inverts an items × items matrix; past this it takes minutes and gigabytes.
EASE_MAX_ITEMS = 20_000


def train_command(parser: Parser) -> int:
    """Train Mult-VAE, keep the best checkpoint, and compare it with Popularity and EASE."""
    add, shown = parser.add_argument, " [default: %(default)s]"
    add("--data", default="ml-100k", help="ml-100k, ml-1m … ml-32m, or a CSV or TSV file of ratings." + shown)
    add("--out", type=Path, default=Path("checkpoints"), help="Folder for the checkpoint and history.csv." + shown)
    seed = "Decides the split, the weights at the start and the dropout."
    add("--seed", metavar="N", type=whole(0, 2**32 - 1), default=0, help=seed + shown)
    add("--max-epochs", metavar="N", type=whole(1), default=200, help="Stop here at the latest." + shown)
    patience = "Stop after so many epochs without a lower val_loss."
    add("--patience", metavar="N", type=whole(1), default=20, help=patience + shown)
    add("--batch-size", metavar="N", type=whole(1), default=128, help="Users per training batch." + shown)
    rating = "A rating of at least this is an interaction."
    add("--min-rating", metavar="R", type=float, default=4.0, help=rating + shown)
    fewer = "Users with fewer interactions are left out."
    add("--min-per-user", metavar="N", type=whole(2), default=5, help=fewer + shown)
    add("--val-users", metavar="N", type=whole(1), help="Users held out for validation. [default: 100]")
    add("--test-users", metavar="N", type=whole(1), help="Users held out for the test. [default: 200]")
    _train(parser.options())
    return 0


def _train(options: Namespace) -> None:
    # Read when torch is first imported: threads that wait for each other sleep. By default they spin, and on a machine
    # that is busy with something else a training of seconds takes a minute.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")

    if options.out.exists() and not options.out.is_dir():
        raise DataError(f"--out {options.out} is a file; expected a folder to save the checkpoint in.")
    ratings = _ratings(options.data)

    from rich.console import Console

    from mvae.data import Interactions, InteractionsDataModule
    from mvae.training import fit

    console = Console(markup=False, emoji=False)
    interactions = Interactions.from_ratings(ratings, options.min_rating, options.min_per_user)
    datamodule = InteractionsDataModule(
        interactions,
        batch_size=options.batch_size,
        num_val_users=options.val_users,
        num_test_users=options.test_users,
        seed=options.seed,
    )
    users = f"{datamodule.train.shape[0]:,} to train on, {datamodule.val_fold_in.shape[0]:,} for validation"
    console.print(
        f"{options.data}: {interactions.num_users:,} users ({users}, {datamodule.test_fold_in.shape[0]:,} for the "
        f"test), {interactions.num_items:,} items, {interactions.matrix.nnz:,} interactions",
        highlight=False,
        soft_wrap=True,
    )
    result = fit(
        datamodule, out=options.out, max_epochs=options.max_epochs, patience=options.patience, seed=options.seed
    )
    console.print(
        f"{len(result.epochs)} epochs; the best one is in {result.checkpoint}", highlight=False, soft_wrap=True
    )
    console.print(_comparison(result.model, datamodule))


def recommend_command(parser: Parser) -> int:
    """Recommend from the checkpoint file alone: by item id, and by title where the data is at hand."""
    add = parser.add_argument
    add("checkpoint", type=Path, help="The .ckpt file, or a folder: the best file in it is taken.")
    liked = "An item id, or (part of) a title. Repeat it for more items."
    add("--liked", metavar="ITEM", action="append", required=True, help=liked)
    add("--top", metavar="N", type=whole(1), default=10, help="How many items to recommend. [default: 10]")
    add("--data", help="The data set with the titles, if it is not ml-100k.")
    add("--json", action="store_true", help="For machines.")
    options = parser.options()

    from mvae.checkpoint.tools.latest import get_latest_checkpoint
    from mvae.checkpoint.with_torch.loading import load
    from mvae.data.movielens import titles_at_hand

    path = get_latest_checkpoint(options.checkpoint) if options.checkpoint.is_dir() else options.checkpoint
    recommender = load(path)
    titles = _titles(_ratings(options.data)) if options.data is not None else titles_at_hand(recommender.source)
    known = {item_id: titles.get(item_id, "") for item_id in recommender.vocabulary}
    liked_ids = [find_item(text, known) for text in options.liked]
    rows = [
        {"rank": rank, "item_id": item_id, "title": known[item_id] or None, "probability": probability}
        for rank, (item_id, probability) in enumerate(recommender.recommend(liked_ids, options.top), start=1)
    ]
    named = [{"item_id": item_id, "title": known[item_id] or None} for item_id in liked_ids]
    if options.json:
        from json import dumps

        print(dumps({"checkpoint": str(path), "liked": named, "recommendations": rows}, ensure_ascii=False, indent=1))
    else:
        _print_table(named, rows)
    return 0


def _print_table(liked: list[dict[str, Any]], rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    because = ", ".join(str(item["title"] or item["item_id"]) for item in liked)
    console = Console(markup=False, emoji=False)  # a title may well have brackets or colons in it
    console.print(f"For somebody who likes {because}:", highlight=False, soft_wrap=True)
    table = Table()
    for header in ("#", "item id", "title", "probability"):
        table.add_column(header, justify="left" if header == "title" else "right")
    for row in rows:
        table.add_row(str(row["rank"]), str(row["item_id"]), row["title"] or "–", f"{row['probability']:.4f}")
    console.print(table)


def find_item(text: str, titles: dict[Hashable, str]) -> Hashable:
    """The item that a person means: an item id, a whole title, or a part that only one title has.

    A number that is no item id is not looked for inside titles: 98 is more likely a mistake than Aliens (1986).

    Raises:
        DataError: nothing matches, or several do; it names the nearest ones.
    """
    import difflib

    by_id = {str(item_id): item_id for item_id in titles}
    if text in by_id:
        return by_id[text]
    wanted = text.casefold().strip()
    plain = {item_id: title.casefold() for item_id, title in titles.items() if title}
    if not plain:
        raise DataError(
            f"{text!r} is not one of the {len(titles):,} item ids of this checkpoint, and no titles are at hand to "
            "look it up in. Pass an item id, or the data set with --data."
        )
    for matches in (
        [i for i, title in plain.items() if wanted in (title, title.rsplit(" (", 1)[0])],
        [i for i, title in plain.items() if wanted and not wanted.isdecimal() and wanted in title],
    ):
        if len(matches) == 1:
            return matches[0]
        if matches:
            shown = "; ".join(f"{titles[i]} (id {i})" for i in matches[:8])
            more = f"; and {len(matches) - 8} more" if len(matches) > 8 else ""
            raise DataError(f"{text!r} matches {len(matches)} items: {shown}{more}. Give the whole title, or the id.")
    near = difflib.get_close_matches(wanted, list(plain.values()), n=3, cutoff=0.4)
    hint = "; ".join(titles[i] for i, title in plain.items() if title in near)
    raise DataError(f"{text!r} matches no item id and no title." + (f" Near it: {hint}." if hint else ""))


def _ratings(data: str) -> pd.DataFrame:
    from mvae.data.movielens import FOLDERS, load_movielens
    from mvae.data.ratings import read_ratings

    short = data.lower().removeprefix("ml-")
    if short in ("100k", *FOLDERS):
        return load_movielens(short, say=lambda line: print(line, file=sys.stderr))
    path = Path(data)
    if path.is_dir():
        for name, (ratings_file, movies_file, _) in reversed(FOLDERS.items()):
            if (path / ratings_file).is_file() and (path / movies_file).is_file():
                return load_movielens(name, folder=path)
        if (path / "u.data").is_file():
            return load_movielens("100k", folder=path)
        raise DataError(f"{path} is a folder without GroupLens' files (ratings.csv and movies.csv, or ratings.dat).")
    if not path.exists() and not path.suffix:
        known = ", ".join(f"ml-{name}" for name in ("100k", *FOLDERS))
        raise DataError(f"There is no data set and no file called {data!r}. Known sets: {known}; or give a CSV file.")
    return read_ratings(path)


def _titles(ratings: pd.DataFrame) -> dict[Hashable, str]:
    if "title" not in ratings:
        raise DataError("The data has no title column; leave --data out and use item ids.")
    from mvae.data.movielens import titles_of

    return titles_of(ratings)


def _comparison(model: ItemModel, datamodule: InteractionsDataModule) -> Table:
    from rich.table import Table

    from mvae.baselines import EASE, Popularity
    from mvae.metrics import evaluate

    rows = {"Mult-VAE": evaluate(model, datamodule.test_dataloader())}
    if datamodule.num_items <= EASE_MAX_ITEMS:
        rows["EASE"] = evaluate(EASE().fit(datamodule.train), datamodule.test_dataloader())
    rows["Popularity"] = evaluate(Popularity().fit(datamodule.train), datamodule.test_dataloader())
    table = Table(title=f"{datamodule.test_fold_in.shape[0]:,} test users", title_justify="left", title_style="")
    table.add_column("")
    for metric in ("NDCG@100", "Recall@20", "Recall@50"):
        table.add_column(metric, justify="right")
    for name, scores in sorted(rows.items(), key=lambda row: -row[1]["ndcg@100"]):
        table.add_row(name, *(f"{scores[key]:.3f}" for key in ("ndcg@100", "recall@20", "recall@50")))
    return table
