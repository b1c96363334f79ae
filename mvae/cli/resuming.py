"""`mvae train --resume`: which checkpoint a run goes on from, and with which options."""

from __future__ import annotations

import os
import shlex
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from mvae.checkpoint.formats.reading import read
from mvae.checkpoint.tools.newest import Newest, find_newest
from mvae.errors import CheckpointError, CheckpointNotFoundError, DataError

#: Options that may be others than before: they do not change what is learned.
FREE = {"out", "resume", "save_every", "keep"}


def go_on(options: Namespace, given: dict[str, Any]) -> Newest | None:
    """Find the checkpoint to go on from, and give `options` the values that its run was started with.

    Args:
        options: of the command, with defaults; changed in place.
        given: those that were typed.

    Returns:
        The checkpoint; None for a plain `--resume` where there is none yet, so that a job that may be killed and
        started again has one command line.

    Raises:
        CheckpointError: there is none in the folder, or the file was not saved by `mvae train`.
        DataError: an option contradicts the one stored.
    """
    where = options.out if options.resume is True else Path(options.resume)
    if options.resume is True and not any(where.glob("*.ckpt")):
        if _is_first_process():
            print(f"There is nothing to resume in {where} yet.")
        return None
    found = _found(where)
    assert found.path is not None
    folder = where if where.is_dir() else where.parent
    _refuse_contradictions(folder, {**found.run["options"], "out": str(folder)}, given)
    stored = {name: value for name, value in found.run["options"].items() if name not in given}
    vars(options).update(stored, out=folder)
    return found


def _found(where: Path) -> Newest:
    if not where.is_dir():
        tree = read(where).tree
        reason = _foreign(tree if isinstance(tree, dict) else {})
        if reason:
            raise CheckpointError(f"{where} cannot be resumed from: {reason}")
        return Newest(where, tree, [])
    found = find_newest(where, _foreign)
    for sentence in found.passed if _is_first_process() else ():
        print(f"mvae: {sentence}", file=sys.stderr)
    if found.path is None:
        raise CheckpointNotFoundError(
            f"There is no checkpoint in {where} that `mvae train` could go on from. Expected the --out of a run."
        )
    return found


def _is_first_process() -> bool:
    """Each of several processes runs the command; Lightning numbers them here."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def _foreign(tree: dict[str, Any]) -> str:
    known = Newest(None, tree, []).run.get("options")
    return "" if known else "it was not saved by `mvae train`: no options are in it."


def _refuse_contradictions(folder: Path, stored: dict[str, Any], given: dict[str, Any]) -> None:
    """An option may be repeated. `--max-epochs` may be larger: then a run that has ended goes on."""
    wrong = []
    for name, value in given.items():
        before, option = stored.get(name), f"--{name.replace('_', '-')}"
        if name == "out":
            same = Path(value).resolve() == folder.resolve()
        else:
            same = name in FREE or (value >= before if name == "max_epochs" else value == before)
        if not same:
            was = f"the default of {option}" if before is None else f"{option} {before}"
            wrong.append(f"{option} {value} contradicts {was}")
    if wrong:
        raise DataError(
            f"{'; '.join(wrong)}, which the run in {folder} was started with. Leave the option out to go on with that "
            "run, or train anew with another --out."
        )


def refuse_unfinished(out: Path) -> None:
    """A run that was broken off is not written over.

    Raises:
        DataError: there is one in the folder; the message has the line that goes on with it.
    """
    if not out.is_dir():
        return
    found = find_newest(out, _foreign)
    if found.path is not None and not found.run["ended"]:
        raise DataError(
            f"{out} holds a run that has not ended: it is in epoch {found.epochs + 1} of at most "
            f"{found.run['options']['max_epochs']}, after step {found.step}. To start anew, choose another --out or "
            f"remove its files. To go on with it: {resume_line(out)}"
        )


def resume_line(out: Path) -> str:
    """What to type to go on with a run."""
    return f"mvae train --resume {shlex.quote(str(out))}"


def why_ended(found: Newest, options: Namespace) -> str:
    """A sentence about a run that has nothing left to do; "" if there is something."""
    if found.run["ended"] == "early":
        return f"val_loss had not fallen for {options.patience} epochs."
    if found.run["ended"] and found.epochs >= options.max_epochs:
        return f"--max-epochs {options.max_epochs} is reached; a larger one goes on."
    return ""
