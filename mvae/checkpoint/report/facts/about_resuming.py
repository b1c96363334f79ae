"""Whether training can go on from a file, with which optimizer, and what it would lack.

Source: `restore_training_state` in `lightning/pytorch/trainer/connectors/checkpoint_connector.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from mvae.checkpoint.pickled.walk import Path, walk
from mvae.checkpoint.report import optimizers
from mvae.checkpoint.report.facts.about_weights import distinct
from mvae.checkpoint.report.facts.run import FIT, Fact, Run
from mvae.text import dotted, many

_GENERATOR_BYTES = 5056
"""Bytes of the state of PyTorch's CPU generator, as `torch.get_rng_state()` gives it."""
_GENERATOR_NAME = re.compile(r"(^|_)(rng|random|generators|generator_states?)(_|$)", re.IGNORECASE)
_PROGRESS = (*FIT, "epoch_loop.automatic_optimization.optim_progress", "optimizer")


def optimizer(run: Run) -> Iterator[Fact]:
    """The optimizers' classes, which the file does not name."""
    found, source = [], {}
    for path, state in run.optimizers:
        found.append((optimizers.kind(state), optimizers.reason(state)))
        kept = sorted(map(str, optimizers.per_parameter(state)))
        where = dotted((*path, "state") if kept else (*path, "param_groups", 0))
        source[where] = kept or sorted(map(str, optimizers.first_group(state)))
    together = len({why for _, why in found}) == 1
    named = [name if together else f"{name} ({why})" for name, why in found]
    named += [found[0][1]] if together else []
    text = ", ".join(name for name in named if name != "optimizer")  # the word for one that is not known
    if found:
        yield Fact("optimizer", [name for name, _ in found], f"optimizer: {text}.", source)


def _lacks(run: Run) -> list[str] | None:
    """What a Lightning checkpoint lacks that training cannot go on without; None for another program's file."""
    has_loops = isinstance(run.get("loops"), dict)
    if not has_loops and not run.is_lightning:
        return None  # how another program goes on, only that program knows
    states = run.tree.get("optimizer_states")
    whole = isinstance(states, (list, tuple)) and all(map(optimizers.is_optimizer_state, states))
    lacking = [] if whole else ["the optimizer's state"]
    if whole and run.is_lightning and "lr_schedulers" not in run.tree:
        lacking.append("the states of the learning-rate schedulers")
    return lacking


def beyond_lightning(run: Run) -> Iterator[Fact]:
    """What an exact resume needs besides, and Lightning does not save by itself."""
    if _lacks(run) != [] or any(optimizers.incomplete(state) for _, state in run.optimizers):
        return
    generators, loader = _random_states(run), _loader_states(run)
    text = "the states of random generators are in it." if generators else "no state of a random generator is in it."
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
    missing = lacking or list(_not_exact(run))
    exactly, listed = not missing, " and ".join(missing)
    if lacking:
        text = f"training cannot go on from it: it lacks {listed}."
    elif missing:
        text = f"training can go on, but not exactly: it lacks {listed}."
    else:
        exactly, caveat = _as_far_as_it_shows(run)
        text = f"as far as the file shows, training can go on {'exactly ' if exactly else ''}where it stopped{caveat}."
    value = {"resumable": not lacking, "exactly": exactly, "missing": missing}
    yield Fact("resume", value, text, {"keys": [key for key in ("optimizer_states", "loops") if key in run.tree]})


def _not_exact(run: Run) -> Iterator[str]:
    """What a file lacks from which training can go on, if it is to go on as if it had never stopped."""
    if not _random_states(run):
        yield "the states of the random generators"
    if not isinstance(run.get(*FIT), dict):
        missing = "loops" not in run.tree
        then = "resumes, and counts from its first epoch" if missing else "resumes only once `loops` is taken out"
        yield f"the progress of the loops (Lightning {then})"
    if run.tree.get("optimizer_states") in ([], ()):
        yield "an optimizer's state, if the run had an optimizer"
    if run.in_epoch() and _gradients_pend(run):
        yield "the gradients, of which some were accumulated since the optimizer's last step"
    if run.in_epoch() and not _loader_states(run):
        yield "the data loader's position, and it is in the middle of an epoch"
    if _plateau_is_behind(run) and not list(run.callbacks("ExactResume")):
        yield "the last step of ReduceLROnPlateau, as Lightning saves before it"


def _gradients_pend(run: Run) -> bool:
    """True if gradients were set to zero for a step that has not come yet.

    They are once for each step; LBFGS computes its loss, and sets them to zero, as often as it likes.
    """
    begun, ended = (run.number(*_PROGRESS, name, "total", "completed") for name in ("zero_grad", "step"))
    return begun is not None and ended is not None and begun == ended + 1


def _plateau_is_behind(run: Run) -> bool:
    """True if ReduceLROnPlateau has not yet seen the loss of the epoch that has ended."""
    done = run.epochs_done()
    for number in range(0 if run.in_epoch() else 8):
        if run.number("lr_schedulers", number, "num_bad_epochs") is not None:
            seen = run.number("lr_schedulers", number, "last_epoch")
            if seen is None or done is None or seen < done[0]:
                return True
    return False


def _as_far_as_it_shows(run: Run) -> tuple[bool, str]:
    """Whether nothing speaks against an exact resume, and what the file cannot show."""
    if not _loader_states(run):
        return True, "; a generator of the data loader's own would not be in it"
    if run.in_epoch() or list(run.callbacks("ExactResume")):
        return True, ""
    return False, "; whether exactly is for the data loader to know, whose position was saved at an epoch's end"


def _cannot_resume(run: Run, whole: int, parameters: int) -> Fact:
    of = f"{whole:,} of {many(parameters, 'parameter')} {'has' if parameters == 1 else 'have'} all of it"
    text = f"training cannot be resumed: the optimizer's state is incomplete ({of})"
    weights = run.sections.weights
    tensors = len(distinct(weights.tensors.values())) if weights else 0
    if 0 < tensors < parameters:
        text += f", and only {many(tensors, 'weight')} {'is' if tensors == 1 else 'are'} there."
    else:
        text += "; the weights can be used without it."
    value = {"resumable": False, "exactly": False, "missing": ["part of the optimizer's state"]}
    return Fact("resume", value, text, {"parameters": parameters, "with all of their state": whole})


def _random_states(run: Run) -> list[str]:
    """Names of what is, or is called, the state of a random generator."""
    state = ("uint8", (_GENERATOR_BYTES,))
    found = [entry.name for entry in run.tensors if (entry.tensor.dtype, entry.tensor.shape) == state]
    settings = ("hyper_parameters", "datamodule_hyper_parameters", "state_dict")
    inside = {key: value for key, value in run.tree.items() if key not in settings}
    found += [dotted(path) for path, value in walk(inside, plain=False) if _is_called_generator(path, value)]
    return found[:5]


def _is_called_generator(path: Path, value: Any) -> bool:
    return 0 < len(path) <= 4 and bool(value) and _GENERATOR_NAME.search(str(path[-1])) is not None


def _loader_states(run: Run) -> list[str]:
    loaders = run.get(*FIT, "state_dict", "combined_loader")
    return ["loops.fit_loop.state_dict.combined_loader"] if loaders else []
