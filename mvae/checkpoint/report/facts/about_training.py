"""How long a run had gone on, how it was going, and with what learning rate."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from typing import Any

from mvae.checkpoint.report.facts.run import BATCHES, FIT, Fact, Run, plain
from mvae.text import dotted, many

# --- how long

_NOW = ("current", "completed")


def steps_per_epoch(run: Run) -> Iterator[Fact]:
    """Optimizer steps in one epoch: those taken, over the epochs done. Not if the file is from within an epoch."""
    found, steps = run.epochs_done(), run.number("global_step")
    if found is None or not steps:
        return
    epochs, source = found
    if epochs and steps % epochs == 0:
        each = steps // epochs
        last = run.number(*FIT, "epoch_loop.automatic_optimization.optim_progress", "optimizer", "step", *_NOW)
        if last and last != each:
            return  # the epochs differ, as those of GradientAccumulationScheduler and StochasticWeightAveraging do
        text = f"{many(steps, 'step')} in {many(epochs, 'epoch')}: {many(each, 'step')} an epoch."
        yield Fact("steps_per_epoch", each, text, {"global_step": steps, **source})


def _batches_per_epoch(run: Run) -> tuple[int, dict[str, Any], str] | None:
    """Batches in one epoch, where that stands, and on what condition: the loop counts them, else they are steps."""
    count = run.number(*BATCHES, "current", "ready")
    if count and run.get(*BATCHES, "is_last_batch") is True:
        return count, {"loops.fit_loop.epoch_loop.batch_progress.current.ready": count}, ""
    if run.get(*BATCHES) is not None:
        return None
    for fact in steps_per_epoch(run):
        return fact.value, fact.follows_from, ", if each is a step"
    return None


def training_examples(run: Run) -> Iterator[Fact]:
    """How many examples an epoch has: its last batch may be short."""
    found = _batches_per_epoch(run)
    if found is None:
        return
    batches, source, condition = found
    where = "on each process"
    stored = run.setting("batch_size", "train_batch_size", "per_device_train_batch_size")
    count = many(batches, "batch", "batches")
    if run.batch_size is not None:
        size, source = run.batch_size, {**source, "batch size given": run.batch_size}
    elif stored is not None and type(stored[1]) is int and stored[1] > 0:
        size, source = stored[1], {**source, stored[0]: stored[1]}
        where += f", if the loader had the batch size in {stored[0]}"
    else:
        least = f"{batches - 1:,}·B + 1" if batches > 1 else "1"
        most = f"{batches:,}·B" if batches > 1 else "B"
        text = (
            f"{count} an epoch{condition}: at batch size B, {least} to {most} training examples "
            f"(at batch size 128: {(batches - 1) * 128 + 1:,} to {batches * 128:,})."
        )
        yield Fact("training_examples", None, text, source)
        return
    low, high = (batches - 1) * size + 1, batches * size
    examples = f"{low:,} to {high:,} training examples" if low < high else many(low, "training example")
    text = f"{count} of {size:,} an epoch{condition}: {examples} ({where})."
    yield Fact("training_examples", [low, high], text, source)


# --- the learning rate


def learning_rate(run: Run) -> Iterator[Fact]:
    """What the learning rate is, beside what it was set to; in how many cuts it came down, if a scheduler cuts it."""
    for number, (path, _) in enumerate(run.optimizers):
        here = (*path, "param_groups", 0)
        current = run.number(*here, "lr")
        start = _initial_rate(run, number, here)
        if current is None or start is None or current <= 0 or start[1] <= 0:
            continue
        if f"{current:g}" == f"{start[1]:g}":
            continue  # the same, but for rounding
        where, initial = start
        source = {where: initial, f"{dotted(here)}.lr": current}
        text = f"the learning rate is {current:g}; {where} is {initial:g}"
        cuts = _cuts(run, number, current / initial)
        if cuts is not None:
            times, factor, named = cuts
            source.update(named)
            how = "halved" if factor == 0.5 else f"multiplied by {factor:g}"
            text = f"{current:g} = {initial:g} × {factor:g}^{times}: the learning rate was {how} {_times(times)}"
        groups = run.get(*path, "param_groups")
        if len(groups) > 1:
            text += f" (of the first of {len(groups):,} parameter groups)"
        name = "learning_rate" if len(run.optimizers) == 1 else f"learning_rate[{number}]"
        value = {"initial": initial, "current": current, "cuts": cuts[0] if cuts else None}
        yield Fact(name, value, text + ".", source)


def _scheduler(run: Run, number: int) -> dict[str, Any]:
    """The scheduler of an optimizer; none if they cannot be told apart."""
    states = run.tree.get("lr_schedulers")
    if not isinstance(states, list) or len(states) != len(run.optimizers):
        return {}
    return states[number] if isinstance(states[number], dict) else {}


def _initial_rate(run: Run, number: int, group: tuple[Any, ...]) -> tuple[str, float] | None:
    named = run.number(*group, "initial_lr")
    if named is not None:
        return f"{dotted(group)}.initial_lr", named
    base = run.number("lr_schedulers", number, "base_lrs", 0) if _scheduler(run, number) else None
    if base is not None:
        return f"lr_schedulers.{number}.base_lrs.0", base
    return run.setting("lr", "learning_rate") if len(run.optimizers) == 1 else None


def _cuts(run: Run, number: int, ratio: float) -> tuple[int, float, dict[str, Any]] | None:
    """How often the rate was multiplied by the scheduler's factor to come to `ratio`: (times, factor, where it is).

    ReduceLROnPlateau has a `factor`; StepLR, MultiStepLR and ExponentialLR have a `gamma`. Others have one of these
    too and another meaning for it.
    """
    scheduler = _scheduler(run, number)
    name = "factor" if "num_bad_epochs" in scheduler else "gamma" if "step_ratio" not in scheduler else ""
    factor = plain(scheduler.get(name))
    if not isinstance(factor, float) or not 0 < factor < 1:
        return None
    times = math.log(ratio) / math.log(factor)
    if round(times) < 1 or abs(times - round(times)) > 1e-6:
        return None
    return round(times), factor, {f"lr_schedulers.{number}.{name}": factor}


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count:,} times")


# --- the KL term of a variational autoencoder


def kl_annealing(run: Run) -> Iterator[Fact]:
    """Where the linear ramp of β stood when the file was saved."""
    ramp = run.setting("kl_anneal_steps", "total_anneal_steps", "anneal_steps", "kl_annealing_steps")
    steps = run.number("global_step")
    if ramp is None or steps is None or ramp[1] <= 0:
        return
    top = run.setting("kl_max_weight", "anneal_cap", "max_beta", "beta")
    cap = top[1] if top else 1.0
    share = min(1.0, steps / ramp[1])
    source = {"global_step": steps, ramp[0]: ramp[1], **({top[0]: cap} if top else {})}
    value: dict[str, Any] = {"beta": cap * share, "progress": share, "full_from_epoch": None, "share_at_full": None}
    text = f"β was at {cap * share:g}, {share:.0%} of its way to {cap:g}"
    if steps >= ramp[1]:
        value["share_at_full"] = (steps - ramp[1]) / steps
        text = (
            f"β reached its maximum {cap:g} at step {ramp[1]:,}; {value['share_at_full']:.0%} of the run was at full β"
        )
        for fact in steps_per_epoch(run):
            value["full_from_epoch"] = int(ramp[1] // fact.value)
            text = text.replace("; ", f", in epoch {value['full_from_epoch']:,}; ")
            source.update(fact.follows_from)
    yield Fact("kl_annealing", value, text + ", if β grows linearly with the steps.", source)


# --- how well


def best(run: Run) -> Iterator[Fact]:
    """The best model so far, and whether it is this one."""
    here_name = os.path.basename(run.file.path)
    for number, (key, state) in enumerate(run.callbacks("ModelCheckpoint")):
        path, score = state.get("best_model_path"), plain(state.get("best_model_score"))
        if not path or not isinstance(path, str) or type(score) not in (int, float) or not math.isfinite(score):
            continue
        here = f"callbacks.{_short(key)}"
        source = {f"{here}.best_model_path": path, f"{here}.best_model_score": score}
        name = re.split(r"[\\/]", path)[-1]
        epoch = _epoch_in(name)
        current, now = plain(state.get("current_score")), run.get("epoch")
        is_this = name == here_name and current in (None, score) and (now == epoch or None in (now, epoch))
        value = {"score": score, "epoch": epoch, "is_this_file": is_this}
        metric = str(state.get("monitor"))[:60] if state.get("monitor") else "monitored score"
        when = f" in epoch {epoch:,}" if epoch is not None else ""
        which = "is the one saved then" if is_this else "has been renamed since, or is another one"
        text = f"the best {metric} was {score:g}{when}; this file {which}."
        yield Fact("best" if number == 0 else f"best[{number}]", value, text, source)


def early_stopping(run: Run) -> Iterator[Fact]:
    """Whether the run was stopped for want of progress, or how close it was."""
    for number, (key, state) in enumerate(run.callbacks("EarlyStopping")):
        stopped, waited, patience = (plain(state.get(name)) for name in ("stopped_epoch", "wait_count", "patience"))
        score = plain(state.get("best_score"))
        if type(stopped) is not int or type(waited) is not int:
            continue
        if waited == 0 and not (isinstance(score, (int, float)) and math.isfinite(score)):
            continue  # nothing has been checked yet
        here = f"callbacks.{_short(key)}"
        source = {f"{here}.stopped_epoch": stopped, f"{here}.wait_count": waited, f"{here}.patience": patience}
        if stopped:
            text = f"early stopping ended the run in epoch {stopped:,}."
        elif waited == 0 and _was_best_now(run, score):
            text = "the monitored score had just improved: this is the best epoch so far, saved as it happened."
        elif waited == 0:
            text = "the monitored score had improved when it was last checked."
        else:
            text = f"the monitored score had not improved for {many(waited, 'check')}, with a patience of {patience}."
        value = {"stopped": bool(stopped), "stopped_epoch": stopped or None, "waited": waited, "patience": patience}
        yield Fact("early_stopping" if number == 0 else f"early_stopping[{number}]", value, text, source)


def _was_best_now(run: Run, score: Any) -> bool:
    """True if a checkpoint with this score was saved in this epoch: the last check may be epochs ago."""
    states = [state for _, state in run.callbacks("ModelCheckpoint") if plain(state.get("best_model_score")) == score]
    found, now = (_epoch_in(str(state.get("best_model_path"))) for state in states), run.get("epoch")
    return run.epochs_done() is not None and any(epoch == now for epoch in found if epoch is not None)


def _epoch_in(name: str) -> int | None:
    """The epoch in a name such as `epoch=3-step=120.ckpt`."""
    found = re.search(r"epoch=(\d+)", name)
    return int(found.group(1)) if found else None


def _short(key: str) -> str:
    """`ModelCheckpoint` for `ModelCheckpoint{'monitor': 'val_loss', …}`."""
    return key.partition("{")[0]
