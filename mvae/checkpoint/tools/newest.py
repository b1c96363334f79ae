"""get_newest_checkpoint(): which file in a folder training goes on from. Reads the files without torch."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mvae.checkpoint.formats.reading import read
from mvae.checkpoint.tools.latest import ckpt_entries
from mvae.checkpoint.tools.verifying import verify
from mvae.errors import CheckpointError, CheckpointNotFoundError


@dataclass(frozen=True)
class Newest:
    """What `find_newest` found.

    Attributes:
        path: the file to resume from, links followed; None if there is none.
        tree: what is in it, as `read` gives it.
        passed: the files that were passed over, a sentence each.
    """

    path: Path | None
    tree: dict[str, Any]
    passed: list[str]

    @property
    def run(self) -> dict[str, Any]:
        """What SaveNewest noted about the run: `started`, `ended`, `files` and `options`; {} if it did not."""
        callbacks = self.tree.get("callbacks")
        state = callbacks.get("SaveNewest") if isinstance(callbacks, dict) else None
        return state if isinstance(state, dict) else {}

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return int(_progress(self.tree)[1])

    @property
    def epochs(self) -> int:
        """Epochs done."""
        return int(_progress(self.tree)[-1])


def get_newest_checkpoint(folder: str | os.PathLike[str]) -> Path:
    """The checkpoint in a folder to resume training from: the whole one with the most optimizer steps.

    Of two with equally many steps, the one that is further in its epoch. (`get_latest_checkpoint` gives the
    *best* one, which is older by as many epochs as brought nothing better.) As there, names and file times are not
    trusted. Of several runs in one folder, those that `mvae train` or `fit(save_every=…)` wrote are told apart,
    and the newest file of the run that was started last is taken.

    Passed over, each with a warning that names it: what is not a checkpoint or is cut off; a file whose checksums show
    damage (only as many are checked as it takes to find a whole one); one that is not Lightning's; one that holds
    weights only; a link to nothing; a folder (a sharded checkpoint).

    Returns:
        The file. Where it was found by a link, such as `last.ckpt` with `save_last="link"`, the file itself.

    Raises:
        CheckpointNotFoundError: no such folder, or no `.ckpt` file in it that training can go on from.
    """
    found = find_newest(folder)
    for sentence in found.passed:
        warnings.warn(sentence, stacklevel=2)
    if found.path is None:
        reasons = " ".join(found.passed) or "Expected one that Lightning saved: check the folder, or train first."
        raise CheckpointNotFoundError(f"There is no .ckpt file in {folder} to resume from. {reasons}")
    return found.path


def find_newest(folder: str | os.PathLike[str], unfit: Callable[[dict[str, Any]], str] = lambda tree: "") -> Newest:
    """`get_newest_checkpoint` for programs: nothing is warned of, and more can be asked of a file.

    Args:
        folder: where to look.
        unfit: given a file's tree, says why it is passed over, such as "it is from another program."; "" if it is not.

    Raises:
        CheckpointNotFoundError: no such folder.
    """
    passed: list[str] = []
    ranked: list[tuple[tuple[Any, ...], Path, dict[str, Any]]] = []
    for path in _followed(Path(folder)):
        tree, reason = resumable(path)
        reason = reason or unfit(tree)
        if reason:
            passed.append(f"{path.name} is passed over: {reason}")
        else:
            ranked.append((_progress(tree), path, tree))
    for _, path, tree in sorted(ranked, key=lambda entry: (*entry[0], entry[1].name), reverse=True):
        reason = damage_in(path)
        if not reason:
            return Newest(path, tree, passed)
        passed.append(f"{path.name} is passed over: {reason}")
    return Newest(None, {}, passed)


def _followed(folder: Path) -> list[Path]:
    """The `.ckpt` entries of a folder, links followed, each file once."""
    entries: dict[str, Path] = {}
    for path in sorted(ckpt_entries(folder), key=lambda path: (path.is_symlink(), path.name)):
        target = path.resolve() if path.is_symlink() and path.exists() else path
        entries.setdefault(os.path.realpath(target), target)
    return list(entries.values())


def resumable(path: Path) -> tuple[dict[str, Any], str]:
    """What is in a file, and why training cannot go on from it; "" if it can, as far as its keys say."""
    if path.is_symlink() and not path.exists():
        return {}, f"it is a link to {os.readlink(path)}, which is not there."
    if path.is_dir():
        return {}, "it is a folder, as sharded checkpoints are; expected a file."
    try:
        tree = read(path).tree
    except (CheckpointError, OSError) as error:
        return {}, str(error)
    if not isinstance(tree, dict) or not isinstance(tree.get("global_step"), int):
        return {}, "it is not a checkpoint that Lightning saved (it has no global_step)."
    if not {"loops", "optimizer_states"} <= tree.keys():
        return {}, "it holds weights and no state of a training (save_weights_only=True?)."
    return tree, ""


def damage_in(path: Path) -> str:
    """What is wrong with a file by its structure and checksums, one sentence; "" if nothing is."""
    try:
        found = verify(path)
    except (CheckpointError, OSError) as error:
        return str(error)
    return "" if found.ok else f"it is damaged ({found.damage[0].where}: {found.damage[0].what})"


def _progress(tree: dict[str, Any]) -> tuple[float, ...]:
    """How far a training was: when it was started, if it says so; steps, batches, validation batches, epochs."""

    def count(*keys: str) -> float:
        value: Any = tree
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value if isinstance(value, (int, float)) else -1

    loop = "loops", "fit_loop"
    return (
        count("callbacks", "SaveNewest", "started"),
        count("global_step"),
        count(*loop, "epoch_loop.batch_progress", "total", "processed"),
        count(*loop, "epoch_loop.val_loop.batch_progress", "total", "completed"),
        count(*loop, "epoch_progress", "total", "processed"),
    )
