"""get_latest_checkpoint(): which file in a folder holds the best model. Reads the files without torch."""

from __future__ import annotations

import math
import os
import re
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mvae.checkpoint.formats.reading import read
from mvae.errors import CheckpointError, CheckpointNotFoundError


@dataclass(frozen=True)
class Candidate:
    """One checkpoint of a folder, and what is recorded about it.

    Attributes:
        path: the file.
        step: its `global_step`; −1 where it has none.
        monitor: the metric ModelCheckpoint watched, such as `val_loss`; None where nothing was watched.
        mode: `min` or `max`.
        score: the metric when this very file was saved; None where the file does not say.
    """

    path: Path
    step: int
    monitor: str | None = None
    mode: str = "min"
    score: float | None = None

    @property
    def is_copy(self) -> bool:
        """Whether it is named as ModelCheckpoint or SaveNewest name the newest state, whatever its score."""
        return re.fullmatch(r"last(-v\d+)?|newest-.*", self.path.stem) is not None


def get_latest_checkpoint(folder: str | os.PathLike[str]) -> Path | str:
    """The checkpoint of the best model in a folder, by the score recorded inside the files.

    ModelCheckpoint writes into each file which score it was saved for. File names, times and `last.ckpt` are not
    trusted: a copied folder has new times, `last.ckpt` may be left from an older run or be a later, worse
    epoch, and `-v1` says only that a name was taken. Where no file has a score of its own (nothing was
    monitored, or only `last.ckpt` is left), the one with the most optimizer steps is taken. Damaged files are
    passed over with a warning.

    Args:
        folder: that ModelCheckpoint saves to; also a URL that fsspec knows, such as `s3://bucket/run` or
            `memory://run`, whose files are fetched one by one.

    Returns:
        The path; for a URL, the file's URL, as `Trainer.fit(ckpt_path=…)` takes it.

    Raises:
        CheckpointNotFoundError: no such folder, or no readable `.ckpt` file in it.
        CheckpointError: the files were scored by different metrics, which cannot be compared; or the URL is of a kind
            that fsspec cannot open.
    """
    name = os.fspath(folder)
    if "://" in name:
        return _of_url(name)
    return _best(name, _candidates(path for path in ckpt_entries(Path(folder)) if path.is_file())).path


def ckpt_entries(folder: Path) -> list[Path]:
    """The entries of a folder that are called `.ckpt`, by name.

    Raises:
        CheckpointNotFoundError: no such folder.
    """
    if not folder.is_dir():
        found = "is a file" if folder.exists() else "does not exist"
        raise CheckpointNotFoundError(f"{folder} {found}; expected the folder that ModelCheckpoint saves to.")
    return sorted(folder.glob("*.ckpt"))


def _of_url(url: str) -> Path | str:
    """The same for a folder that fsspec reads, which Lightning brings along."""
    try:
        from fsspec.core import url_to_fs
        from fsspec.implementations.local import LocalFileSystem

        fs, root = url_to_fs(url)
        if isinstance(fs, LocalFileSystem):
            return get_latest_checkpoint(root)
        names = sorted(fs.glob(f"{root.rstrip('/')}/*.ckpt")) if fs.isdir(root) else None
    except (ImportError, ValueError) as error:
        raise CheckpointError(f"{url} cannot be opened: {error}") from None
    if names is None:
        raise CheckpointNotFoundError(f"{url} is no folder; expected the one that ModelCheckpoint saves to.")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as here:
        best = _best(url, _candidates(_fetched(fs, names, Path(here))))
    return f"{url.rstrip('/')}/{best.path.name}"


def _fetched(fs: Any, names: list[str], here: Path) -> Iterator[Path]:
    """Each file in turn, as a copy that is gone when the next is asked for."""
    for name in names:
        path = here / name.rpartition("/")[2]
        fs.get_file(name, str(path))
        yield path
        with suppress(OSError):
            path.unlink()


def _best(folder: str, found: Iterator[Candidate]) -> Candidate:
    candidates = list(found)
    if not candidates:
        raise CheckpointNotFoundError(
            f"There is no readable .ckpt file in {folder}. Expected one that ModelCheckpoint saved: check dirpath=, "
            "or train first."
        )
    scored = [c for c in candidates if c.score is not None]
    if not scored:
        return max(candidates, key=lambda c: (c.step, not c.is_copy, c.path.name))
    metrics = sorted({f"{c.monitor} ({c.mode})" for c in scored})
    if len(metrics) > 1:
        raise CheckpointError(
            f"The files in {folder} were scored by {' and by '.join(metrics)}, which cannot be compared. "
            "Move one run's files to a folder of their own."
        )
    sign = 1 if scored[0].mode == "min" else -1
    # Equal scores: the earlier step, as ModelCheckpoint itself keeps the first of equals; and not its copy last.ckpt.
    return min(scored, key=lambda c: (_loss(sign, c.score), c.step, c.is_copy, len(c.path.name), c.path.name))


def _loss(sign: int, score: float | None) -> float:
    return math.inf if score is None or math.isnan(score) else sign * score


def _candidates(paths: Iterable[Path]) -> Iterator[Candidate]:
    for path in paths:
        try:
            tree = read(path).tree
        except (CheckpointError, OSError) as error:
            warnings.warn(f"{path.name} is passed over: {error}", stacklevel=4)
            continue
        yield _describe(path, tree if isinstance(tree, dict) else {})


def _describe(path: Path, tree: dict[Any, Any]) -> Candidate:
    step = tree.get("global_step")
    step = step if isinstance(step, int) else -1
    callbacks = tree.get("callbacks")
    for key, state in callbacks.items() if isinstance(callbacks, dict) else ():
        if not (str(key).startswith("ModelCheckpoint") and isinstance(state, dict) and state.get("monitor")):
            continue
        score = _own_score(path, tree, state)
        if score is not None:
            mode = re.search(r"'mode': '(min|max)'", str(key))
            return Candidate(path, step, state["monitor"], mode.group(1) if mode else "min", score)
    return Candidate(path, step)


def _own_score(path: Path, tree: dict[Any, Any], state: dict[str, Any]) -> float | None:
    """The score ModelCheckpoint recorded for this very file.

    `best_k_models` maps file names to scores, and the newest entry is the file itself. A file under another
    name (`last.ckpt`, a renamed copy) is not in it. Its `current_score` may be that of an earlier epoch:
    it is this file's own only if the early stopping beside it says that this was the best epoch.
    """
    for name, score in (state.get("best_k_models") or {}).items():
        if os.path.basename(str(name)) == path.name:
            return _number(score)
    for key, other in tree["callbacks"].items():
        same = str(key).startswith("EarlyStopping") and f"'{state['monitor']}'" in str(key)
        if same and isinstance(other, dict) and other.get("wait_count") == 0:
            return _number(other.get("best_score"))
    return None


def _number(value: Any) -> float | None:
    try:
        return float(value.item() if hasattr(value, "item") else value)
    except (TypeError, ValueError, CheckpointError):
        return None
