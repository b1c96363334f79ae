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
    """What the optimizer keeps for its first parameter, by name; empty before the first step."""
    states = state["state"]
    first: Any = next(iter(states.values()), {}) if isinstance(states, dict) else {}
    return first if isinstance(first, dict) else {}


def first_group(state: dict[str, Any]) -> dict[str, Any]:
    """The settings of its first parameter group."""
    groups = state["param_groups"]
    return groups[0] if groups and isinstance(groups[0], dict) else {}


def kind(state: dict[str, Any]) -> str:
    """`Adam`, `AdamW`, `SGD` …, or `optimizer` if it is none that is known."""
    group, kept = set(first_group(state)), set(per_parameter(state))
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
