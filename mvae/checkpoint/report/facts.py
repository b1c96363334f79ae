"""What the numbers in a checkpoint give away about the run that made it.

Nothing here is written in the file: each fact is derived, says so, and carries the values it follows from, so that a
reader can check it by hand. A fact that does not follow is left out rather than guessed.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from mvae.checkpoint.formats.contents import Contents
from mvae.checkpoint.formats.detect import Format
from mvae.checkpoint.pickled.meaning import meaning
from mvae.checkpoint.pickled.values import Object, Tensor
from mvae.checkpoint.report import optimizers
from mvae.checkpoint.report.byte_budget import WEIGHTS_KEYS, Sections
from mvae.checkpoint.report.entries import TensorEntry
from mvae.errors import CheckpointError
from mvae.text import jsonable


@dataclass(frozen=True)
class Fact:
    """One thing that follows.

    Attributes:
        name: a short name for programs, such as `steps_per_epoch`.
        value: a number, text, bool, list or dict, as JSON takes it.
        text: one sentence for people.
        follows_from: path in the checkpoint → value there.
    """

    name: str
    value: Any
    text: str
    follows_from: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """value, text, derived (always true) and from, as JSON takes them."""
        found = {"value": self.value, "text": self.text, "derived": True, "from": self.follows_from}
        return {name: jsonable(part) for name, part in found.items()}


def derive(contents: Contents, tensors: list[TensorEntry], batch_size: int | None = None) -> list[Fact]:
    """Every fact that follows from a checkpoint.

    Args:
        contents: the checkpoint.
        tensors: those in it.
        batch_size: of the training, if the file does not say.
    """
    facts: list[Fact] = []
    run = Run(contents, tensors, batch_size)
    for rule in RULES:
        try:
            facts.extend(rule(run))
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            continue  # a value is not of the type that Lightning writes: nothing follows from it
    return facts


class Run:
    """A checkpoint, with the places that the rules look at."""

    def __init__(self, contents: Contents, tensors: list[TensorEntry], batch_size: int | None) -> None:
        self.file = contents
        self.tensors = tensors
        self.batch_size = batch_size
        self.tree: dict[Any, Any] = contents.tree if isinstance(contents.tree, dict) else {}
        self.optimizers = list(optimizers.optimizer_states(self.tree))
        of = Sections(contents.tree).of
        self.weights = [entry for entry in tensors if of(entry.path) == "weights"]

    def get(self, *path: Any) -> Any:
        """The value at a path, or None. A tensor or numpy number with one element comes as a plain number."""
        value: Any = self.tree
        for step in path:
            value = meaning(value)
            if isinstance(value, (list, tuple)) and type(step) is int and step < len(value):
                value = value[step]
            elif isinstance(value, (dict, Object)):
                value = value.get(step)
            else:
                return None
        return plain(value)

    def number(self, *path: Any) -> Any:
        """As `get`, but only a number."""
        value = self.get(*path)
        return value if type(value) in (int, float) else None

    def setting(self, *names: str) -> tuple[str, Any] | None:
        """The first of these hyperparameters that is a number, with its path."""
        for group in ("hyper_parameters", "datamodule_hyper_parameters", "hparams", "args"):
            for name in names:
                value = self.number(group, name)
                if value is not None:
                    return f"{group}.{name}", value
        return None

    def callbacks(self, kind: str) -> Iterator[tuple[str, dict[Any, Any]]]:
        """The states of callbacks of a class, each with its key."""
        states = self.tree.get("callbacks")
        for key, state in states.items() if isinstance(states, dict) else ():
            if re.match(rf"(<.*\.)?{kind}\b", str(key)) and isinstance(state, dict):
                yield str(key), state


def plain(value: Any) -> Any:
    """A tensor with one element, or a numpy number, as a plain number; everything else unchanged."""
    if isinstance(value, Tensor) and value.numel == 1 and value.storage is not None:
        try:
            return value.item()
        except CheckpointError:
            return value
    return meaning(value)


# --- what kind


def contents(run: Run) -> Iterator[Fact]:
    """What was saved: a whole training state, the weights alone, a model object …"""
    tree, keys = run.tree, list(map(str, run.tree))
    if run.file.format is Format.SAFETENSORS:
        kind, text = "weights", "weights and nothing else, as safetensors allows."
    elif run.get("pytorch-lightning_version") is not None:
        full = bool(run.optimizers)
        kind = "lightning" if full else "lightning weights-only"
        text = "a Lightning checkpoint" + (
            "." if full else " saved without its training state (`save_weights_only=True`)."
        )
    elif isinstance(run.file.tree, Object):
        kind, text = "object", f"one object, of the class {run.file.tree.cls}: loading it needs that class."
    elif tree and all(isinstance(value, Tensor) for value in tree.values()):
        kind, text = "state_dict", "a plain `state_dict`: weights by name, and nothing about the training."
    elif run.optimizers:
        kind, text = "training", "a training checkpoint: weights, optimizer, and what its author put beside them."
    else:
        kind, text = "other", "values and tensors in an order of their author's own."
    yield Fact("contents", kind, text, {"keys": keys[:20]})


# --- how long


_FIT = ("loops", "fit_loop")


def _epochs_done(run: Run) -> tuple[int, dict[str, Any]] | None:
    """Epochs whose every batch was processed. `epoch` alone does not say: it is the number of the current epoch."""
    done = run.number(*_FIT, "epoch_progress", "current", "processed")
    if type(done) is int and done >= 0:
        return done, {"loops.fit_loop.epoch_progress.current.processed": done}
    epoch = run.number("epoch")
    return (epoch + 1, {"epoch": epoch}) if type(epoch) is int and epoch >= 0 else None


def _in_epoch(run: Run) -> bool:
    """True if the file was saved in the middle of an epoch."""
    started = run.number(*_FIT, "epoch_loop.batch_progress", "current", "ready")
    last = run.get(*_FIT, "epoch_loop.batch_progress", "is_last_batch")
    return bool(started) and last is False


def steps_per_epoch(run: Run) -> Iterator[Fact]:
    """Optimizer steps in one epoch: those taken, over the epochs done. Not if the file is from within an epoch."""
    found, steps = _epochs_done(run), run.number("global_step")
    if found is None or not steps or _in_epoch(run):
        return
    epochs, source = found
    if epochs and steps % epochs == 0:
        each = steps // epochs
        yield Fact(
            "steps_per_epoch",
            each,
            f"{steps:,} steps in {epochs:,} epoch{'s'[: epochs > 1]}: {each:,} steps an epoch.",
            {"global_step": steps, **source},
        )


def _batches_per_epoch(run: Run) -> tuple[int, dict[str, Any]] | None:
    """Batches in one epoch: counted by the loop if it stood at the last one, else as many as steps."""
    path = (*_FIT, "epoch_loop.batch_progress")
    count = run.number(*path, "current", "ready")
    if count and run.get(*path, "is_last_batch") is True:
        return count, {"loops.fit_loop.epoch_loop.batch_progress.current.ready": count}
    if run.get(*path) is not None:
        return None
    for fact in steps_per_epoch(run):
        return fact.value, fact.follows_from
    return None


def training_examples(run: Run) -> Iterator[Fact]:
    """How many examples the training set has: the last batch of an epoch may be short."""
    found = _batches_per_epoch(run)
    if found is None:
        return
    batches, source = found
    stored = run.setting("batch_size", "train_batch_size", "per_device_train_batch_size")
    if run.batch_size is not None:
        size, source = run.batch_size, {**source, "batch size given": run.batch_size}
    elif stored is not None:
        size, source = stored[1], {**source, stored[0]: stored[1]}
    else:
        text = (
            f"{batches:,} batches an epoch: at batch size B, {batches - 1:,}·B + 1 to {batches:,}·B training examples "
            f"(at batch size 128: {(batches - 1) * 128 + 1:,} to {batches * 128:,})."
        )
        yield Fact("training_examples", None, text, source)
        return
    low, high = (batches - 1) * size + 1, batches * size
    text = f"{batches:,} batches of {size:,} an epoch: {low:,} to {high:,} training examples (on each process)."
    yield Fact("training_examples", [low, high], text, source)


# --- the learning rate


def learning_rate(run: Run) -> Iterator[Fact]:
    """How far the learning rate has come down, and in how many cuts."""
    for number, (path, _) in enumerate(run.optimizers):
        here = (*path, "param_groups", 0)
        current = run.number(*here, "lr")
        start = _initial_rate(run, number, here)
        if current is None or start is None or current <= 0 or start[1] <= 0 or current == start[1]:
            continue
        where, initial = start
        source = {where: initial, f"{'.'.join(map(str, here))}.lr": current}
        text = f"the learning rate went from {initial:g} to {current:g}"
        cuts = _cuts(run, number, current / initial)
        if cuts is not None:
            times, factor, named = cuts
            source.update(named)
            how = "halved" if factor == 0.5 else f"multiplied by {factor:g}"
            text = f"{current:g} = {initial:g} × {factor:g}^{times}: the learning rate was {how} {_times(times)}"
        name = "learning_rate" if len(run.optimizers) == 1 else f"learning_rate[{number}]"
        value = {"initial": initial, "current": current, "cuts": cuts[0] if cuts else None}
        yield Fact(name, value, text + ".", source)


def _initial_rate(run: Run, number: int, group: tuple[Any, ...]) -> tuple[str, float] | None:
    named = run.number(*group, "initial_lr")
    if named is not None:
        return f"{'.'.join(map(str, group))}.initial_lr", named
    base = run.number("lr_schedulers", number, "base_lrs", 0)
    if base is not None:
        return f"lr_schedulers.{number}.base_lrs.0", base
    return run.setting("lr", "learning_rate") if len(run.optimizers) == 1 else None


def _cuts(run: Run, number: int, ratio: float) -> tuple[int, float, dict[str, Any]] | None:
    """How often the rate was multiplied by one factor to come to `ratio`: (times, factor, where the factor stands)."""
    for name in ("factor", "gamma"):
        factor = run.number("lr_schedulers", number, name)
        if factor and 0 < factor < 1:
            times = math.log(ratio) / math.log(factor)
            if round(times) > 0 and abs(times - round(times)) < 1e-6:
                return round(times), factor, {f"lr_schedulers.{number}.{name}": factor}
    times = -math.log2(ratio)
    return (round(times), 0.5, {}) if times > 0.5 and abs(times - round(times)) < 1e-9 else None


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
    name = os.path.basename(run.file.path)
    for number, (key, state) in enumerate(run.callbacks("ModelCheckpoint")):
        path, score = state.get("best_model_path"), plain(state.get("best_model_score"))
        if not path or not isinstance(path, str) or type(score) not in (int, float):
            continue
        here = f"callbacks.{_short(key)}"
        source = {f"{here}.best_model_path": path, f"{here}.best_model_score": score}
        is_this = re.split(r"[\\/]", path)[-1] == name
        epoch = re.search(r"epoch=(\d+)", path)
        value = {"score": score, "epoch": int(epoch.group(1)) if epoch else None, "is_this_file": is_this}
        metric = str(state.get("monitor"))[:60] if state.get("monitor") else "monitored score"
        when = f" in epoch {int(epoch.group(1)):,}" if epoch else ""
        which = "is the one saved then" if is_this else "has been renamed since, or is another one"
        text = f"the best {metric} was {score:g}{when}; this file {which}."
        yield Fact("best" if number == 0 else f"best[{number}]", value, text, source)


def early_stopping(run: Run) -> Iterator[Fact]:
    """Whether the run was stopped for want of progress, or how close it was."""
    for number, (key, state) in enumerate(run.callbacks("EarlyStopping")):
        stopped, waited, patience = (plain(state.get(name)) for name in ("stopped_epoch", "wait_count", "patience"))
        if type(stopped) is not int or type(waited) is not int:
            continue
        here = f"callbacks.{_short(key)}"
        source = {f"{here}.stopped_epoch": stopped, f"{here}.wait_count": waited, f"{here}.patience": patience}
        if stopped:
            text = f"early stopping ended the run in epoch {stopped:,}."
        elif waited == 0:
            text = "the monitored score had just improved: this is the best epoch so far, saved as it happened."
        else:
            text = f"the monitored score had not improved for {waited:,} checks of {patience}; the run was going on."
        value = {"stopped": bool(stopped), "stopped_epoch": stopped or None, "waited": waited, "patience": patience}
        yield Fact("early_stopping" if number == 0 else f"early_stopping[{number}]", value, text, source)


def _short(key: str) -> str:
    """`ModelCheckpoint` for `ModelCheckpoint{'monitor': 'val_loss', …}`."""
    return key.partition("{")[0]


# --- what was trained, and with what


def optimizer(run: Run) -> Iterator[Fact]:
    """The optimizers' classes, which the file does not name."""
    names, source = [], {}
    partial = any(optimizers.incomplete(state) for _, state in run.optimizers)
    for path, state in run.optimizers:
        names.append(optimizers.kind(state))
        kept = sorted(map(str, optimizers.per_parameter(state)))
        source[f"{'.'.join(map(str, path))}.state"] = kept or sorted(map(str, optimizers.first_group(state)))
    if names:
        how = ", by what it keeps for each parameter."
        if partial:
            how = ", it seems by its settings: what it keeps for each parameter is incomplete."
        yield Fact("optimizer", names, f"optimizer: {', '.join(names)}{how}", source)


def parameters(run: Run) -> Iterator[Fact]:
    """Number of parameters: the elements of the weights, a shared tensor once, buffers not counted."""
    count = tensors = 0
    seen: set[tuple[int, int, tuple[int, ...]]] = set()
    for entry in run.weights:
        tensor = entry.tensor
        identity = (id(tensor.storage or tensor), tensor.offset, tensor.shape)
        if tensor.parts is None and identity not in seen:
            seen.add(identity)
            count += tensor.numel
            tensors += 1
    if count:
        source = {"tensors of the weights": tensors, "elements in them": count}
        yield Fact("parameters", count, f"{count:,} parameters in {tensors:,} tensors.", source)


def precision(run: Run) -> Iterator[Fact]:
    """What the numbers were computed in, as far as it shows: the scaler that fp16 needs, and the weights' types."""
    for key in ("MixedPrecision", "MixedPrecisionPlugin", "native_amp_scaling_state", "AMPPrecision", "scaler"):
        scale = run.number(key, "scale")
        if scale is not None:
            text = f"16-bit mixed precision with a loss scale of {scale:g}."
            yield Fact("precision", "16-mixed", text, {f"{key}.scale": scale})
            return
    kinds = {entry.tensor.dtype for entry in run.weights}
    floats = sorted(kind for kind in kinds if "float" in kind)
    if floats:
        text = f"the weights are {' and '.join(floats)}"
        if floats == ["float32"]:
            text += " (mixed precision in training leaves no trace in a file like this)"
        text += "."
        yield Fact("precision", floats, text, {"types of the weights": floats})


def prefixes(run: Run) -> Iterator[Fact]:
    """Wrappers around the model that left their name in front of every weight."""
    known = {"_orig_mod": "torch.compile", "module": "DistributedDataParallel or DataParallel",
             "_forward_module": "a Lightning strategy", "_fsdp_wrapped_module": "FSDP"}  # fmt: skip
    weights = next((run.tree[key] for key in WEIGHTS_KEYS if isinstance(run.tree.get(key), dict)), run.tree)
    names = [str(name) for name in weights]
    for prefix, wrapper in known.items():
        found = [name for name in names if name.startswith(f"{prefix}.") or f".{prefix}." in name]
        # "module" is also a plain attribute name; a wrapper puts it in front of everything
        if found and (prefix != "module" or all(name.startswith("module.") for name in names)):
            text = (
                f"the model was wrapped by {wrapper}: {len(found):,} of {len(names):,} weights are named '{prefix}.'."
            )
            yield Fact(f"wrapped_{prefix.strip('_')}", wrapper, text, {"for example": found[0]})


def oversized(run: Run) -> Iterator[Fact]:
    """Storages of which the tensors show only a part: `torch.save` writes the whole storage behind a view."""
    used: dict[int, int] = {}
    storages = {}
    for entry in run.tensors:
        storage = entry.tensor.storage
        if storage is not None and storage.record is not None:
            key = id(storage)
            used[key] = used.get(key, 0) + entry.tensor.nbytes
            storages[key] = (entry.name, storage)
    wasted = {
        name: storage.nbytes - used[key] for key, (name, storage) in storages.items() if storage.nbytes > used[key]
    }
    total = sum(wasted.values())
    if total > 4096:
        text = f"{total:,} bytes were saved that no tensor shows: a view was saved with all of what it is a view of."
        yield Fact("unused_bytes", total, text, dict(sorted(wasted.items(), key=lambda item: -item[1])[:5]))


# --- going on


def _lacks(run: Run) -> list[str] | None:
    """What a Lightning checkpoint lacks that training cannot go on without; None for another program's file."""
    has_loops = isinstance(run.get("loops"), dict)
    if not has_loops and run.get("pytorch-lightning_version") is None:
        return None  # how another program goes on, only that program knows
    lacking = [] if has_loops else ["the progress of the loops"]
    return (
        lacking
        if any(optimizers.per_parameter(state) for _, state in run.optimizers)
        else ["the optimizer's state", *lacking]
    )


def beyond_lightning(run: Run) -> Iterator[Fact]:
    """What an exact resume needs besides, and Lightning does not save by itself."""
    if _lacks(run) != [] or any(optimizers.incomplete(state) for _, state in run.optimizers):
        return
    generators, loader = _random_states(run), _loader_states(run)
    text = (
        "the states of the random generators are in it." if generators else "no state of a random generator is in it."
    )
    yield Fact("random_state", bool(generators), text, {"found": generators})
    text = f"the data loader's position is {'in' if loader else 'not in'} it."
    yield Fact("loader_position", bool(loader), text, {"found": loader})


def resuming(run: Run) -> Iterator[Fact]:
    """Whether training can go on from this file, and whether it would give what it would have given uninterrupted."""
    partial = [counts for _, state in run.optimizers if (counts := optimizers.incomplete(state))]
    if partial:
        yield _cannot_resume(run, *map(sum, zip(*partial, strict=True)))
        return
    lacking = _lacks(run)
    if lacking is None:
        return
    missing, behind = list(lacking), False
    if not lacking:
        missing += [] if _random_states(run) else ["the states of the random generators"]
        if _in_epoch(run) and not _loader_states(run):
            missing.append("the data loader's position, and it is in the middle of an epoch")
        plateau = any(run.number("lr_schedulers", i, "num_bad_epochs") is not None for i in range(8))
        behind = plateau and not list(run.callbacks("ExactResume"))
        missing += ["the last step of ReduceLROnPlateau, as Lightning saves before it"] if behind else []
    listed = " and ".join(missing)
    if lacking:
        text = f"training cannot go on from it: it lacks {listed}."
    elif missing:
        text = f"training can go on, but not exactly: it lacks {listed}."
    else:
        text = "training can go on exactly where it stopped."
    value = {"resumable": not lacking, "exactly": not missing, "missing": missing}
    yield Fact("resume", value, text, {"keys": [key for key in ("optimizer_states", "loops") if key in run.tree]})


def _cannot_resume(run: Run, whole: int, parameters: int) -> Fact:
    text = (
        f"training cannot be resumed: the optimizer's state is incomplete ({whole:,} of {parameters:,} parameters have "
        "all of it)"
    )
    if 0 < len(run.weights) < parameters:
        text += f", and only {len(run.weights):,} weights are there."
    else:
        text += "; the weights can be used without it."
    value = {"resumable": False, "exactly": False, "missing": ["part of the optimizer's state"]}
    return Fact("resume", value, text, {"parameters": parameters, "with all of their state": whole})


_GENERATOR_BYTES = 5056
"""Bytes of the state of PyTorch's CPU generator, as `torch.get_rng_state()` gives it."""


def _random_states(run: Run) -> list[str]:
    """Names of what looks like the state of a random generator."""
    found = [
        entry.name
        for entry in run.tensors
        if (entry.tensor.dtype, entry.tensor.shape) == ("uint8", (_GENERATOR_BYTES,))
    ]
    return found[:5]


def _loader_states(run: Run) -> list[str]:
    loaders = run.get(*_FIT, "state_dict", "combined_loader")
    return ["loops.fit_loop.state_dict.combined_loader"] if loaders else []


RULES: list[Callable[[Run], Iterator[Fact]]] = [
    contents,
    parameters,
    optimizer,
    precision,
    steps_per_epoch,
    training_examples,
    learning_rate,
    kl_annealing,
    best,
    early_stopping,
    prefixes,
    oversized,
    beyond_lightning,
    resuming,
]
