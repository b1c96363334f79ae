"""Which optimizer a saved state belongs to, from what it keeps for each parameter.

Lightning does not save the class of an optimizer. Its `param_groups` and the names in its `state` give it away.
Source: the optimizers of `torch/optim`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_BY_STATE: list[tuple[set[str], str]] = [
    ({"exp_avg", "exp_inf"}, "Adamax"),
    ({"exp_avg", "exp_avg_sq", "mu_product"}, "NAdam"),
    ({"exp_avg", "exp_avg_sq"}, "Adam"),
    ({"square_avg", "acc_delta"}, "Adadelta"),
    ({"square_avg"}, "RMSprop"),
    ({"eta", "mu", "ax"}, "ASGD"),
    ({"prev", "step_size"}, "Rprop"),
    ({"sum", "step"}, "Adagrad"),
    ({"row_var"}, "Adafactor"),
    ({"old_dirs", "old_stps"}, "LBFGS"),
    ({"momentum_buffer"}, "SGD"),
    ({"exp_avg"}, "Lion"),
]
_BY_GROUP: list[tuple[set[str], str]] = [
    ({"etas", "step_sizes"}, "Rprop"),
    ({"lambd", "t0"}, "ASGD"),
    ({"lr_decay"}, "Adagrad"),
    ({"rho"}, "Adadelta"),
    ({"momentum", "alpha", "centered"}, "RMSprop"),
    ({"momentum", "nesterov"}, "SGD"),
    ({"ns_steps"}, "Muon"),
    ({"betas", "momentum_decay"}, "NAdam"),
    ({"betas", "eps"}, "Adam"),
    ({"betas"}, "Lion"),
]


def is_optimizer_state(value: Any) -> bool:
    """True for what `Optimizer.state_dict()` returns."""
    return isinstance(value, dict) and isinstance(value.get("param_groups"), list) and "state" in value


def optimizer_states(tree: Any) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    """The optimizer states in a checkpoint, each with its path: Lightning's list, or a top-level value like one."""
    if not isinstance(tree, dict):
        return
    for key, value in tree.items():
        if is_optimizer_state(value):
            yield (key,), value
        elif isinstance(value, (list, tuple)):
            yield from (((key, i), state) for i, state in enumerate(value) if is_optimizer_state(state))


def per_parameter(state: dict[str, Any]) -> dict[str, Any]:
    """What the optimizer keeps for the first parameter that has anything, by name; empty before the first step."""
    return next((kept for kept in _states(state).values() if isinstance(kept, dict) and kept), {})


def _states(state: dict[str, Any]) -> dict[Any, Any]:
    return state["state"] if isinstance(state["state"], dict) else {}


def incomplete(state: dict[str, Any]) -> tuple[int, int] | None:
    """(parameters that have all of their state, parameters) if some lack entries that others of their group have.

    A parameter without any entry in `state` is not counted as one: it was frozen, or had no gradient yet.
    """
    whole = parameters = 0
    for kept in _by_group(state):
        most = max(kept, key=len, default=set())
        lacking = sum(names < most for names in kept)
        if "exp_avg" in most and not most & _WITH_EXP_AVG and "eps" in first_group(state):
            lacking = len(kept)
        whole += len(kept) - lacking
        parameters += len(kept)
    return (whole, parameters) if whole < parameters else None


_WITH_EXP_AVG = {"exp_avg_sq", "exp_inf"}
"""One of these goes with `exp_avg` in every optimizer that has an `eps`."""
_OF_LARGE_PARAMETERS = ("qmap", "absmax")
"""8-bit optimizers keep these for large parameters only."""


def _by_group(state: dict[str, Any]) -> list[list[set[str]]]:
    """For each parameter group, what is kept for each of its parameters that has a state."""
    number: dict[Any, int] = {}
    for place, group in enumerate(state["param_groups"]):
        listed = group.get("params") if isinstance(group, dict) else None
        for parameter in listed if isinstance(listed, list) else ():
            if isinstance(parameter, (int, str)):
                number[parameter] = place
    found: dict[int, list[set[str]]] = {}
    for parameter, kept in _states(state).items():
        if isinstance(kept, dict):
            names = {name for name in map(str, kept) if not name.startswith(_OF_LARGE_PARAMETERS)}
            found.setdefault(number.get(parameter, 0), []).append(names)
    return list(found.values())


def first_group(state: dict[str, Any]) -> dict[str, Any]:
    """The settings of its first parameter group."""
    groups = state["param_groups"]
    return groups[0] if groups and isinstance(groups[0], dict) else {}


def kind(state: dict[str, Any]) -> str:
    """`Adam`, `AdamW`, `SGD` …, or `optimizer` if it is none that is known."""
    group, kept = set(first_group(state)), set(per_parameter(state))
    if incomplete(state) and "betas" in group:
        kept = set()  # the settings are whole, and name it better than half a state
    found = next((name for names, name in _BY_STATE if names <= kept), None)
    found = found or next((name for names, name in _BY_GROUP if names <= group), "optimizer")
    return _kind_of_adam(first_group(state), kept) if found == "Adam" else found


def _kind_of_adam(group: dict[str, Any], kept: set[str]) -> str:
    """Adam has many relatives with the same state; what they may be told apart by is in their settings."""
    if "momentum_decay" in group:
        return "NAdam"
    if "amsgrad" in group or not group:
        # PyTorch 2.6 and later say whether it is AdamW; before, the two left the same
        return "AdamW" if group.get("decoupled_weight_decay") is True else "Adam"
    if "decoupled_weight_decay" in group:
        return "RAdam"
    if "maximize" in group and not kept:
        return "Adamax" if "weight_decay" in group else "SparseAdam"
    return "Adam" if "weight_decay" in group else "SparseAdam"
