"""`mvae train` and `mvae recommend`. What is heavy is imported when a command runs."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mvae.cli.options import Parser, whole
from mvae.cli.resuming import go_on, refuse_unfinished, resume_line, why_ended
from mvae.errors import DataError

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Hashable

    import pandas as pd
    from lightning.pytorch.callbacks import Callback
    from rich.console import Console
    from rich.table import Table

    from mvae.data import Interactions, InteractionsDataModule
    from mvae.models import ItemModel

#: EASE inverts an items × items matrix; past this it takes minutes and gigabytes.
EASE_MAX_ITEMS = 20_000

#: `--preset`: options with other defaults. With one, the model has the class's own hyperparameters, not `SMALL_DATA`.
PRESETS: dict[str, dict[str, Any]] = {
    # The run that the course takes apart: 31,360 users to train on, 245 steps an epoch, β full after 20,000 steps, and
    # no end but that of early stopping.
    "document": {"max_epochs": 10_000, "patience": 20, "batch_size": 128, "val_users": 1_000, "test_users": 1_000},
}
#: What `--data synthetic` is with a preset: users, items, the mean of a user's items, and the dimensions of taste.
PRESET_DATA = {"document": "synthetic:33360x6807x164x256"}

#: What messages call an argument of Python → what it is on the command line.
OPTIONS = {
    "min_rating": "--min-rating",
    "min_per_user": "--min-per-user",
    "num_val_users": "--val-users",
    "num_test_users": "--test-users",
    "batch_size": "--batch-size",
    "max_epochs": "--max-epochs",
    "work on synthetic(…) data": "give ratings of your own with --data",
}


def train_command(parser: Parser) -> int:
    """Train Mult-VAE, keep the best checkpoint, and compare it with Popularity and EASE.

    The newest state is kept too, so that a run that was killed goes on with --resume. On SIGTERM and Ctrl-C the step
    under way is finished and its state saved. Exit codes: 0 done, 2 bad input, 130 ended by Ctrl-C, 143 by SIGTERM.
    """
    add, shown = parser.add_argument, " [default: %(default)s]"
    data = "ml-100k, ml-1m … ml-32m, a CSV or TSV file of ratings, or synthetic[:USERSxITEMS[xMEAN[xFACTORS]]]."
    add("--data", default="ml-100k", help=data + shown)
    add("--out", type=Path, default=Path("checkpoints"), help="Folder for the checkpoints and history.csv." + shown)
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
    every = "Save the newest state so often: epoch, a number of steps, or a time such as '10 min'."
    add("--save-every", metavar="WHEN", default="1 min", help=every + shown)
    add("--keep", metavar="N", type=whole(1), default=1, help="So many of the newest states stay." + shown)
    resume = "Go on from the newest whole checkpoint in a folder (by default --out), or from a file."
    add("--resume", metavar="FILE|FOLDER", nargs="?", const=True, help=resume)
    processes = "Processes or GPUs that train together (DDP) and share the users of each batch."
    add("--devices", metavar="N", type=whole(1), default=1, help=processes + shown)
    preset = "Other defaults. document: the size, the hyperparameters and the patience of the course's large run."
    add("--preset", choices=list(PRESETS), help=preset)
    options, given = parser.options(), parser.given()
    if options.preset is not None:
        _take_preset(options, given)
    try:
        _train(options, given)
    except DataError as error:
        raise DataError(_with_options(str(error))) from None
    return 0


def _take_preset(options: Namespace, given: dict[str, Any]) -> None:
    """Give `options` the values of the preset, where none was typed."""
    vars(options).update({name: value for name, value in PRESETS[options.preset].items() if name not in given})
    if options.data == "synthetic":
        options.data = PRESET_DATA[options.preset]
        given.pop("data", None)


def _with_options(message: str) -> str:
    """A message in the words of the command line. Parts of a path, such as `min_rating.csv`, stay as they are."""
    names = "|".join(map(re.escape, OPTIONS))
    return re.sub(rf"(?<![\w./\\-])({names})(?![\w/\\-]|\.\w)", lambda match: OPTIONS[match[1]], message)


def _train(options: Namespace, given: dict[str, Any]) -> None:
    # Read when torch is first imported: threads that wait for each other sleep. By default they spin, and on a machine
    # that is busy with something else a training of seconds takes a minute.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")

    if options.out.exists() and not options.out.is_dir():
        raise DataError(f"--out {options.out} is a file; expected a folder to save the checkpoint in.")
    if "data" in given:
        given["data"] = options.data = _lasting(options.data)
    start = None
    if options.resume is None:
        refuse_unfinished(options.out)
    else:
        start = go_on(options, given)
    newest = _newest(options)

    from lightning.pytorch.utilities import rank_zero_only
    from rich.console import Console

    from mvae.training import fit

    first = getattr(rank_zero_only, "rank", 0) == 0  # of several processes, which all run this, one prints
    console = Console(markup=False, emoji=False, highlight=False, soft_wrap=True, quiet=not first)
    datamodule = _datamodule(options, console)
    if start is not None:
        ended = why_ended(start, options)
        state = f"ended at step {start.step}: {ended}" if ended else f"resumed from step {start.step}."
        console.print(f"{start.path}: {state}")
    result = fit(
        datamodule,
        _model(options, datamodule),
        out=options.out,
        max_epochs=options.max_epochs,
        patience=options.patience,
        seed=options.seed,
        resume=start.path if start is not None and start.path is not None else False,
        callbacks=[newest],
        devices=options.devices,
    )
    if first:
        console.print(f"{len(result.epochs)} epochs; the best one is in {result.checkpoint}")
        console.print(_comparison(result.model, datamodule))


def _datamodule(options: Namespace, console: Console) -> InteractionsDataModule:
    """The data, split, with a line on how much it is."""
    from mvae.data import InteractionsDataModule

    interactions = _interactions(options, console)
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
        f"test), {interactions.num_items:,} items, {interactions.matrix.nnz:,} interactions"
    )
    return datamodule


def _model(options: Namespace, datamodule: InteractionsDataModule) -> ItemModel | None:
    """The model of a preset; None for the one that `fit` makes."""
    if options.preset is None:
        return None
    from lightning import seed_everything

    from mvae.model import MultiVAE

    seed_everything(options.seed, verbose=False)
    return MultiVAE(datamodule.num_items)


def _newest(options: Namespace) -> Callback:
    """Keeps the newest state, with the options that a resumed run needs."""
    from mvae.checkpoint.with_torch.newest import SaveNewest

    settings = {name: value for name, value in vars(options).items() if name not in ("out", "resume")}
    try:
        return SaveNewest(options.out, options.save_every, options.keep, settings, resume_line(options.out))
    except ValueError as error:
        raise DataError(f"--save-every: {error}") from None


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
    unseen = {item_id: title for item_id, title in titles.items() if item_id not in known}
    liked_ids = [find_item(text, known, unseen) for text in options.liked]
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


def find_item(text: str, known: dict[Hashable, str], unseen: dict[Hashable, str] | None = None) -> Hashable:
    """The item that a person means: an item id, a whole title, or a part that only one title has.

    A number that is no item id is not looked for inside titles: 98 is more likely a mistake than Aliens (1986).

    Args:
        text: what the person typed.
        known: item id → title of what the model knows; "" where there is no title.
        unseen: item id → title of what the data has beside that.

    Raises:
        DataError: nothing matches, or several do, or an item that the model does not know; it names the nearest ones.
    """
    unseen = unseen or {}
    for matches_of in (_by_id, _by_whole_title, _by_part):
        matches = matches_of(text, known)
        if len(matches) == 1:
            return matches[0]
        if matches:
            several = f"{text!r} matches {len(matches)} items: {_listed(matches, known)}"
            raise DataError(f"{several}. Give the whole title, or the id.")
        if matches := matches_of(text, unseen):
            raise DataError(
                f"{text!r} is {_listed(matches, unseen)}: not among the {len(known):,} items that the model was "
                "trained on. An item that nobody liked is left out. Choose another."
            )
    if not any(known.values()):
        raise DataError(
            f"{text!r} is not one of the {len(known):,} item ids of this checkpoint, and no titles are at hand to "
            "look it up in. Pass an item id, or the data set with --data."
        )
    raise DataError(f"{text!r} matches no item id and no title.{_near(text, known)}")


def _by_id(text: str, titles: dict[Hashable, str]) -> list[Hashable]:
    return [item_id for item_id in titles if str(item_id) == text]


def _by_whole_title(text: str, titles: dict[Hashable, str]) -> list[Hashable]:
    """Items of that title, which may do without the year in parentheses at its end."""
    wanted, plain = _plain(text), {item_id: _plain(title) for item_id, title in titles.items() if title}
    return [item_id for item_id, title in plain.items() if wanted in (title, title.rsplit(" (", 1)[0])]


def _by_part(text: str, titles: dict[Hashable, str]) -> list[Hashable]:
    wanted = _plain(text)
    if not wanted or wanted.isdecimal():
        return []
    return [item_id for item_id, title in titles.items() if wanted in _plain(title)]


def _plain(text: str) -> str:
    return text.casefold().strip()


def _listed(items: list[Hashable], titles: dict[Hashable, str]) -> str:
    shown = "; ".join(f"{titles[item_id]} (id {item_id})" for item_id in items[:8])
    return shown + (f"; and {len(items) - 8} more" if len(items) > 8 else "")


def _near(text: str, titles: dict[Hashable, str]) -> str:
    from difflib import get_close_matches

    by_title = {_plain(title): title for title in titles.values() if title}
    near = get_close_matches(_plain(text), list(by_title), n=3, cutoff=0.4)
    return f" Near it: {'; '.join(map(by_title.__getitem__, near))}." if near else ""


def _interactions(options: Namespace, console: Console) -> Interactions:
    from mvae.data import Interactions, synthetic

    made_up = re.fullmatch(r"synthetic(?::(\d+)x(\d+)(?:x(\d+)(?:x(\d+))?)?)?", options.data)
    if made_up is not None:
        num_users, num_items = int(made_up[1] or 1_000), int(made_up[2] or 500)
        few = float(made_up[3] or max(5.0, min(40.0, num_items / 5)))
        made = synthetic(num_users, num_items, interactions_per_user=few, num_factors=int(made_up[4] or 0))
        return replace(made, source=options.data)
    ratings = _ratings(options.data)
    interactions = Interactions.from_ratings(ratings, options.min_rating, options.min_per_user)
    if "rating" not in ratings:
        none = "no column of ratings (rating, score, stars, overall …)"
        console.print(f"{options.data} has {none}: every row counts as liked, and --min-rating is not used.")
    return interactions


def _lasting(data: str) -> str:
    """The name of a data set as it is, and of a file so that it is found from another folder too."""
    from mvae.data.movielens import FOLDERS

    known = data.lower().removeprefix("ml-") in ("100k", *FOLDERS)
    return data if known or not os.path.exists(data) else os.path.abspath(data)


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
    from mvae.data.ratings import titles_of

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
