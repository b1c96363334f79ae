"""The moment at which a checkpoint is saved: what of the run is done, and what comes next."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, Checkpoint, EarlyStopping, ModelCheckpoint, ProgressBar, Timer

from mvae.checkpoint.with_torch.lightning_internals import Progress
from mvae.checkpoint.with_torch.newest import SaveNewest

START = "before the first batch"
EPOCH_START = "as an epoch starts"
IN_BATCH = "inside a batch"
AFTER_BATCH = "after a batch"
IN_VALIDATION = "inside a validation"
AFTER_VALIDATION = "after a validation"
BETWEEN_BATCHES = "between two batches"
EPOCH_END = "as an epoch ends"
EPOCH_ENDED = "after an epoch"

WITHIN_EPOCH = (IN_BATCH, AFTER_BATCH, IN_VALIDATION, AFTER_VALIDATION, BETWEEN_BATCHES)

HOOKS = {AFTER_BATCH: "on_train_batch_end", AFTER_VALIDATION: "on_validation_end", EPOCH_END: "on_train_epoch_end"}
"""The hooks after which a run can go on exactly, if they are finished."""

_BATCHES, _EPOCHS = "epoch_loop.batch_progress", "epoch_progress"


def moment(progress: Progress, hook: str, validating: bool) -> str:
    """Which moment it is.

    Args:
        progress: the loops' counters.
        hook: the hook that saves, as `running_hook` finds it.
        validating: whether a validation is under way.
    """
    epoch, batch = progress[_EPOCHS]["current"], progress[_BATCHES]["current"]
    if epoch["ready"] == 0:
        return START
    if epoch["ready"] > epoch["started"]:
        return EPOCH_START
    if epoch["processed"] == epoch["ready"]:
        return EPOCH_ENDED if epoch["completed"] == epoch["ready"] else EPOCH_END
    if batch["ready"] > batch["processed"]:
        return IN_BATCH
    if batch["processed"] > batch["completed"]:
        return AFTER_BATCH
    if validating:
        return AFTER_VALIDATION if hook == HOOKS[AFTER_VALIDATION] else IN_VALIDATION
    return BETWEEN_BATCHES


def callbacks_of(trainer: Any) -> list[Any]:
    """`Trainer.callbacks`, which its type leaves out."""
    return list(trainer.callbacks)


def has(trainer: L.Trainer, kind: type[Callback]) -> bool:
    """Whether one of the callbacks is of a class."""
    return any(isinstance(callback, kind) for callback in callbacks_of(trainer))


MODULE = "the module"


def left_out(trainer: L.Trainer, saver: Any, hook: str, but: Callback) -> list[Any]:
    """The callbacks, and the module, whose `hook` runs only after the one that saves; `but` one of them."""
    callbacks = callbacks_of(trainer)
    late = [callback for callback in callbacks if _runs_late(callback, hook)]
    order = [*(callback for callback in callbacks if callback not in late), trainer.lightning_module, *late]
    place = next((at for at, owner in enumerate(order) if owner is saver), len(order))
    return [owner for owner in order[place + 1 :] if overrides(owner, hook) and owner is not but]


def names_of(owners: list[Any]) -> list[str]:
    """What a file calls them by: another run may have other callbacks, in another order."""
    return [MODULE if isinstance(owner, L.LightningModule) else owner.state_key for owner in owners]


def found_again(trainer: L.Trainer, names: list[str]) -> list[Any]:
    """Those of this run that have these names."""
    there, found = [*callbacks_of(trainer), trainer.lightning_module], []
    for name in names:
        owner = next((owner for owner in there if names_of([owner]) == [name]), None)
        if owner is not None:
            there.remove(owner)
            found.append(owner)
    return found


def _runs_late(callback: Any, hook: str) -> bool:
    """At an epoch's end Lightning runs the callbacks that look at metrics after the module."""
    return hook == HOOKS[EPOCH_END] and isinstance(callback, Checkpoint | EarlyStopping)


def overrides(owner: Any, hook: str) -> bool:
    """Whether a callback or a module has a hook of its own."""
    base = L.LightningModule if isinstance(owner, L.LightningModule) else Callback
    return getattr(type(owner), hook, None) is not getattr(base, hook)


def needs_no_batch(owner: Any) -> bool:
    """Whether its on_train_batch_end can be run without the batch, which is gone."""
    return type(owner).on_train_batch_end is ModelCheckpoint.on_train_batch_end


def changes_nothing(owner: Any) -> bool:
    """Whether a run stays the same without its on_train_batch_end: it shows something, or only saves."""
    return isinstance(owner, ProgressBar | Timer | SaveNewest)


# --- the loops' counters, moved


def before_what_is_under_way(progress: Progress, now: str) -> Progress:
    """As before the batch, the validation or the epoch that a save at this moment breaks into: it is begun again."""
    if now == IN_VALIDATION:
        name = "epoch_loop.val_loop.batch_progress"
        total, current = progress[name]["total"], progress[name]["current"]
        before = {count: total[count] - current[count] for count in total}
        return progress | {name: progress[name] | {"total": before, "current": dict.fromkeys(current, 0)}}
    loop = {IN_BATCH: _BATCHES, EPOCH_START: _EPOCHS}.get(now)
    if loop is None:
        return progress
    return progress | {loop: _each(progress[loop], lambda counts: dict.fromkeys(counts, counts["completed"]))}


def epoch_not_ended(progress: Progress) -> Progress:
    """As within the epoch that a limit had ended."""
    back = ("processed", "completed")
    return progress | {_EPOCHS: _each(progress[_EPOCHS], lambda c: c | dict.fromkeys(back, c["ready"] - 1))}


def _each(counts: dict[str, Any], change: Any) -> dict[str, Any]:
    return counts | {name: change(counts[name]) for name in ("total", "current")}
