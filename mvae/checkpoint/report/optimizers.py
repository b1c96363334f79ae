"""Which optimizer a saved state belongs to, from its settings and from what it keeps for each parameter.

Neither torch nor Lightning saves the class of an optimizer. The names in its `param_groups` and in its `state` give
it away. Source: the optimizers of `torch/optim`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_KINDS: list[tuple[str, set[str], set[str]]] = [
    ("NAdam", {"betas", "momentum_decay"}, {"exp_avg", "exp_avg_sq", "mu_product"}),
    ("Muon", {"momentum", "nesterov", "ns_steps"}, {"momentum_buffer"}),
    ("SGD", {"momentum", "dampening", "nesterov"}, {"momentum_buffer"}),
    ("RMSprop", {"alpha", "centered", "momentum"}, {"square_avg"}),
    ("ASGD", {"lambd", "alpha", "t0"}, {"eta", "mu", "ax"}),
    ("Adagrad", {"lr_decay", "eps"}, {"sum"}),
    ("Adadelta", {"rho", "eps"}, {"square_avg", "acc_delta"}),
    ("Rprop", {"etas", "step_sizes"}, {"prev", "step_size"}),
    ("LBFGS", {"history_size", "tolerance_grad"}, {"func_evals"}),
    ("Adafactor", {"beta2_decay", "d"}, {"step"}),
    ("Adam", {"betas", "eps", "amsgrad"}, {"exp_avg", "exp_avg_sq"}),
    ("RAdam", {"betas", "eps", "weight_decay", "decoupled_weight_decay"}, {"exp_avg", "exp_avg_sq"}),
    ("Adamax", {"betas", "eps", "weight_decay", "maximize"}, {"exp_avg", "exp_inf"}),
]
"""Class, names among its settings, names of what it keeps for each parameter; the first that fits is meant.

Optimizers that are not PyTorch's own, of which there are hundreds, are told by what they keep and not by a name.
"""


def is_optimizer_state(value: Any) -> bool:
    """True for what `Optimizer.state_dict()` returns."""
    return isinstance(value, dict) and isinstance(value.get("param_groups"), list) and "state" in value


def optimizer_states(tree: Any) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    """The optimizer states in a checkpoint, each with its path: Lightning's list, or a top-level value like one."""
    if not isinstance(tree, dict):
        return
    if is_optimizer_state(tree):
        yield (), tree
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

    A parameter without any entry in `state` is not counted as one: it was frozen, or had no gradient yet. Only
    PyTorch's own optimizers are judged.
    """
    settings = set(first_group(state))
    if not any(asked <= settings for _, asked, _ in _KINDS):
        return None  # others may keep more for some parameters
    whole = parameters = 0
    for kept in _by_group(state):
        most = max(kept, key=len, default=set())
        lacking = sum(names < most for names in kept)
        if "exp_avg" in most and most <= {"step", "exp_avg"} and "amsgrad" in settings:
            lacking = len(kept)
        whole += len(kept) - lacking
        parameters += len(kept)
    return (whole, parameters) if whole < parameters else None


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
            found.setdefault(number.get(parameter, 0), []).append(set(map(str, kept)))
    return list(found.values())


def first_group(state: dict[str, Any]) -> dict[str, Any]:
    """The settings of its first parameter group."""
    groups = state["param_groups"]
    return groups[0] if groups and isinstance(groups[0], dict) else {}


def kind(state: dict[str, Any]) -> str:
    """`Adam`, `Adam or AdamW`, `SGD` …, or `optimizer` if it is none of PyTorch's own."""
    settings, kept = set(first_group(state)), set(per_parameter(state))
    whole = not incomplete(state)  # the settings name it better than half a state
    for name, asked, keeps in _KINDS:
        fits = not kept or not whole or keeps <= kept or (name == "SGD" and kept <= keeps)
        if asked <= settings and fits:
            return _adam(first_group(state)) if name == "Adam" else name
    return "optimizer"


def _adam(group: dict[str, Any]) -> str:
    """Before PyTorch 2.6, Adam and AdamW left the same; since then a setting tells them apart."""
    if "decoupled_weight_decay" not in group:
        return "Adam or AdamW"
    return "AdamW" if group["decoupled_weight_decay"] is True else "Adam"


def reason(state: dict[str, Any]) -> str:
    """What `kind` goes by, as the end of a sentence."""
    if incomplete(state):
        return "it seems by its settings: what it keeps for each parameter is incomplete"
    kept = per_parameter(state)
    if kind(state) == "optimizer":
        names = ", ".join(sorted(map(str, kept)))[:100]
        return "none of PyTorch's own; it keeps " + (f"{names} for each parameter" if names else "nothing yet")
    return "by what it keeps for each parameter" if kept else "by its settings; it keeps nothing for any parameter"
