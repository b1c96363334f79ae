"""Where in a checkpoint the weights are, and under which names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from mvae.checkpoint.pickled.values import Object, Tensor
from mvae.checkpoint.pickled.walk import Path, walk
from mvae.checkpoint.report.byte_budget import WEIGHTS_KEYS
from mvae.errors import CheckpointError

COMPILED = "_orig_mod"
"""What `torch.compile` puts into every name."""


def find_weights(tree: Any, key: str | None = None) -> tuple[Path, dict[str, Tensor], list[str]]:
    """(path to the weights, tensors by name, names of what is among them and is no tensor).

    They are the `state_dict` of Lightning, or what other projects call it, or the whole file; dicts inside dicts are
    given names with dots. A whole `nn.Module` that somebody saved is taken apart as its own `state_dict()` would.

    Args:
        key: the path to them with dots, if they are somewhere else.

    Raises:
        CheckpointError: there are none, or none under that key.
    """
    if key is not None:
        path = tuple(key.split("."))
        return _taken(path, _follow(tree, path))
    if isinstance(tree, dict):
        for name in WEIGHTS_KEYS:
            if _has_tensors(tree.get(name)):
                return _taken((name,), tree[name])
        if any(isinstance(value, Tensor) for value in tree.values()):
            return _taken((), tree)
    elif _is_module(tree):
        return _taken((), tree)
    keys = ", ".join(map(str, list(tree)[:12])) if isinstance(tree, dict) else type(tree).__name__
    raise CheckpointError(f"no weights found; the file holds {keys[:200]}. Say where they are with --key.")


def rename(names: Sequence[str], strip: Sequence[str] = ()) -> dict[str, str]:
    """Old name → new name: without `_orig_mod.` wherever it stands, and without the prefixes in `strip`.

    Raises:
        CheckpointError: no name has the prefix, or two names become one.
    """
    new = {name: ".".join(part for part in name.split(".") if part != COMPILED) for name in names}
    for prefix in strip:
        if not any(name.startswith(prefix) for name in new.values()):
            first = next(iter(new.values()), "nothing")
            raise CheckpointError(f"no tensor's name starts with '{prefix}'; the first is '{first}'.")
        new = {old: name.removeprefix(prefix) for old, name in new.items()}
    taken: dict[str, str] = {}
    for old, name in new.items():
        if not name or name in taken:
            raise CheckpointError(f"without its prefix '{old}' would be called '{name}', which is taken or empty.")
        taken[name] = old
    return new


def _taken(path: Path, value: Any) -> tuple[Path, dict[str, Tensor], list[str]]:
    found = dict(_module(value)) if _is_module(value) else dict(_flat(value))
    tensors = {name: part for name, part in found.items() if isinstance(part, Tensor)}
    if not tensors:
        raise CheckpointError(f"there are no tensors under '{'.'.join(map(str, path))}'.")
    return path, tensors, [name for name in found if name not in tensors]


def _follow(tree: Any, path: Path) -> Any:
    for number, step in enumerate(path):
        inside: Any = tree.attributes if isinstance(tree, Object) else tree
        if isinstance(inside, (list, tuple)) and str(step).isdecimal() and int(step) < len(inside):
            tree = inside[int(step)]
        elif isinstance(inside, dict) and step in inside:
            tree = inside[step]
        else:
            raise CheckpointError(f"there is no '{'.'.join(path[: number + 1])}' in the file.")
    return tree


def _has_tensors(value: Any) -> bool:
    return isinstance(value, (dict, Object)) and any(isinstance(part, Tensor) for _, part in walk(value, plain=False))


def _flat(value: Any) -> Iterator[tuple[str, Any]]:
    """What is in dicts inside dicts, with dots between the keys."""
    if not isinstance(value, dict):
        return
    stack = [(str(key), part) for key, part in reversed(value.items())]
    entered = {id(value)}
    while stack:
        name, part = stack.pop()
        if isinstance(part, dict) and part and id(part) not in entered:
            entered.add(id(part))
            stack += [(f"{name}.{key}", inside) for key, inside in reversed(part.items())]
        else:
            yield name, part


def _is_module(value: Any) -> bool:
    return isinstance(value, Object) and {"_parameters", "_buffers", "_modules"} <= value.attributes.keys()


def _module(value: Object) -> Iterator[tuple[str, Any]]:
    """The `state_dict()` that an `nn.Module` would give: parameters, lasting buffers, then its modules'."""
    stack: list[tuple[str, Any, frozenset[int]]] = [("", value, frozenset())]
    while stack:
        prefix, module, around = stack.pop()
        if not _is_module(module) or id(module) in around:
            continue
        has = module.attributes
        passing = has.get("_non_persistent_buffers_set") or ()
        for kind in ("_parameters", "_buffers"):
            for name, part in has[kind].items() if isinstance(has[kind], dict) else ():
                if isinstance(part, Tensor) and (kind == "_parameters" or name not in passing):
                    yield f"{prefix}{name}", part
        inside = has["_modules"].items() if isinstance(has["_modules"], dict) else ()
        around |= {id(module)}
        stack += [(f"{prefix}{name}.", part, around) for name, part in reversed(list(inside))]
