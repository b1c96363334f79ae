"""The weights at a key that the user gives, or in their usual place; what to type where they are not."""

from __future__ import annotations

from itertools import islice
from typing import Any

from mvae.checkpoint.formats.contents import Contents
from mvae.checkpoint.pickled.values import Object, Tensor
from mvae.checkpoint.pickled.walk import Path, walk
from mvae.checkpoint.report import weights
from mvae.checkpoint.report.weights import Weights
from mvae.errors import CheckpointError
from mvae.text import dotted

_MAX_LOOKED_AT = 10_000
"""Values among which the weights are looked for once they are not in their usual place."""


def find_weights(contents: Contents, key: str | None = None) -> Weights:
    """The weights: the `state_dict` of Lightning, or what other projects call it, or the whole file.

    Dicts inside dicts are given names with dots. A whole `nn.Module` that somebody saved is taken apart as its own
    `state_dict()` would, and so is a TorchScript module.

    Args:
        contents: the checkpoint.
        key: where they are, with dots, if somewhere else: a path in the file, or the beginning of the names of some
            of its weights, such as `model_ema`; `.` is the whole file.

    Raises:
        CheckpointError: there are none, or none under that key; the message says what to type.
    """
    found = weights.usual(contents) if key is None else _at_key(contents, key)
    if found is None:
        raise CheckpointError(_none_found(contents))
    return found


def other_weights(contents: Contents, found: Weights) -> list[str]:
    """Top-level keys that hold weights besides those found, such as an averaged copy or a second network."""
    tree = contents.tree
    if not isinstance(tree, dict) or not found.path:
        return []
    return [
        str(key)
        for key, value in tree.items()
        if key != found.path[0]
        and key not in {*weights.TRAINING_KEYS, *weights.SETTINGS_KEYS}
        and (weights.is_sure(value) or weights.is_usual(key, value) or weights.is_state_dict(value))
    ]


# --- a place that the user names


def _at_key(contents: Contents, key: str) -> Weights:
    if key == ".":
        return weights.taken(contents, (), contents.tree)
    parts = key.split(".")
    place = _follow(contents.tree, parts)
    if place is not None:
        return weights.taken(contents, *place)
    for found in filter(None, (weights.weights_of(contents), _around(contents, parts))):
        below = _below(found, key) or _below(found, key.removeprefix(dotted(found.path) + "."))
        if below is not None:
            return below
    missing = next(length for length in range(1, len(parts) + 1) if _follow(contents.tree, parts[:length]) is None)
    known = f"there is no '{'.'.join(parts[:missing])}' in the file"
    raise CheckpointError(f"{known}, and no weight's name begins with '{key}.'.")


def _around(contents: Contents, parts: list[str]) -> Weights | None:
    """What the longest beginning of a key that exists leads to."""
    for length in range(len(parts) - 1, 0, -1):
        place = _follow(contents.tree, parts[:length])
        if place is not None:
            return weights.taken(contents, *place)
    return None


def _below(found: Weights, prefix: str) -> Weights | None:
    """Those weights whose names begin with a prefix, without it."""
    start = prefix + "."
    kept = Weights(found.path, exact=found.exact)
    for place, name in found.places.items():
        if name.startswith(start):
            kept.add(name.removeprefix(start), place, found.tensors.get(name, found.packed.get(name)))
    kept.buffers = {name.removeprefix(start) for name in found.buffers if name.startswith(start)}
    kept.others = {name.removeprefix(start): value for name, value in found.others.items() if name.startswith(start)}
    kept.not_asked_for = [name for name in (*found.tensors, *found.packed) if not name.startswith(start)]
    versions = found.metadata or {}
    inside = {f"{name}.": value for name, value in versions.items() if f"{name}.".startswith(start)}
    kept.metadata = {name.removeprefix(start).removesuffix("."): value for name, value in inside.items()} or None
    return kept if kept.tensors or kept.packed else None


def _follow(tree: Any, parts: list[str]) -> tuple[Path, Any] | None:
    path: list[Any] = []
    for step in parts:
        inside: Any = tree.attributes if isinstance(tree, Object) else tree
        key: Any = None
        if isinstance(inside, (list, tuple)) and step.isdecimal() and int(step) < len(inside):
            key = int(step)
        elif isinstance(inside, dict):
            key = step if step in inside else next((key for key in inside if str(key) == step), None)
        if key is None:
            return None
        path.append(key)
        tree = inside[key]
    return tuple(path), tree


# --- nothing found


def _none_found(contents: Contents) -> str:
    """What the file holds, and what to type if there are weights in it after all."""
    tree = contents.tree
    if isinstance(tree, Tensor):
        return "no weights found: the file is one tensor, which has no name to be exported under."
    keys = candidates(tree)
    if keys:
        return f"no weights found under a usual key. If they are what you look for: {' or '.join(keys)}."
    if isinstance(tree, Object):
        return f"no weights found: the file is one object of the class {tree.cls}, and no `nn.Module` is in it."
    if not isinstance(tree, dict):
        return f"no weights found; the file holds {type(tree).__name__}."
    held = ", ".join(map(str, list(tree)[:12]))
    tensors = any(isinstance(value, Tensor) and not weights.is_random(key, value) for key, value in tree.items())
    hint = " If its tensors are weights: --key . (a dot)." if tensors else ""
    return f"no weights found; the file holds {held[:200]}.{hint}"


def candidates(tree: Any, limit: int = 6) -> list[str]:
    """`--key generator` for each place that holds a `state_dict` or a module, or a dict of weights by its names."""
    found: list[str] = []
    for path, value in islice(walk(tree, plain=False), _MAX_LOOKED_AT):
        if not 0 < len(path) <= 4 or path[0] in weights.TRAINING_KEYS or any("<" in str(step) for step in path):
            continue
        key = f"--key {dotted(path)}"
        within = any(key.startswith(other + ".") for other in found)
        if not within and len(found) < limit and (weights.is_sure(value) or weights.is_state_dict(value)):
            found.append(key)
    return found
