"""Going through what was read, without recursion: a file may nest deeper than Python's own stack, or hold
itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mvae.checkpoint.errors import CheckpointError
from mvae.checkpoint.values import Blob, Global, NumpyArray, Object, ObjectDict, Storage, Tensor

_LEAVES = {str, int, float, bool, type(None), bytes, bytearray, complex, Global, Blob, Storage}

Path = tuple[Any, ...]
"""The keys and positions that lead to a value: `("optimizer_states", 0, "state", 3, "exp_avg")`."""


def is_leaf(value: Any) -> bool:
    """True for a value with nothing inside it."""
    kind = type(value)
    if kind is Tensor:
        return value.attributes is None and value.parts is None
    return kind in _LEAVES


def children(value: Any) -> list[tuple[Any, Any]]:
    """What is directly inside a container or a placeholder, each with the step that leads to it.

    The steps are the keys of a dict and the positions of a list. What a placeholder holds besides is named
    after where it was: its attributes directly, arguments as `args`, and so on.
    """
    if isinstance(value, dict):
        found = list(value.items())
        if isinstance(value, ObjectDict):
            found += [(f"<{name}>", part) for name, part in (("args", value.args), ("attributes", value.state)) if part]
        return found
    if isinstance(value, (list, tuple, set, frozenset)):
        return list(enumerate(value))
    if isinstance(value, Object):
        return _inside_object(value)
    if isinstance(value, Tensor):
        found = list((value.parts or {}).items())
        return [*found, ("<attributes>", value.attributes)] if value.attributes else found
    if isinstance(value, NumpyArray) and isinstance(value.data, list):
        return list(enumerate(value.data))
    return []


def _inside_object(value: Object) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = list((value.entries or {}).items()) + list(enumerate(value.items or ()))
    if isinstance(value.state, dict):
        found += value.state.items()
    elif value.state is not None:
        found.append(("<state>", value.state))
    if not isinstance(value.cls, Global):
        found.append(("<class>", value.cls))
    return found + [(f"<{name}>", part) for name, part in (("args", value.args), ("kwargs", value.kwargs)) if part]


def walk(root: Any) -> Iterator[tuple[Path, Any]]:
    """Every value with the path that leads to it, parents before what is inside them, in the order of the
    file.

    A container met a second time is given again, under its second path, and not entered again; so this ends
    even if the tree holds itself.
    """
    entered: set[int] = set()
    stack: list[tuple[Path, Any]] = [((), root)]
    while stack:
        path, value = stack.pop()
        yield path, value
        if is_leaf(value) or id(value) in entered:
            continue
        entered.add(id(value))
        stack.extend(((*path, step), part) for step, part in reversed(children(value)))


def check_shape(root: Any, max_depth: int, max_unfolded: int) -> None:
    """Refuse a value that nobody could go through: too deep, or unfolding into too much because its parts are
    shared.

    Every container is visited once, what is inside it first, so that its depth and unfolded size follow from
    theirs. A cycle is allowed, as in Python; the way back counts as one value.

    Raises:
        CheckpointError: past a limit.
    """
    measured: dict[int, tuple[int, int]] = {}
    entered: set[int] = set()
    stack: list[tuple[Any, list[Any] | None]] = [(root, None)]
    while stack:
        value, inside = stack.pop()
        if inside is None:
            if is_leaf(value) or id(value) in entered:
                continue
            entered.add(id(value))
            inside = [part for pair in children(value) for part in pair if not is_leaf(part)]
            stack.append((value, inside))
            stack.extend((part, None) for part in inside)
            continue
        sizes = [measured.get(id(part), (0, 1)) for part in inside]
        depth = 1 + max((depth for depth, _ in sizes), default=0)
        unfolded = 1 + len(children(value)) + sum(size for _, size in sizes)
        measured[id(value)] = (depth, unfolded)
        if depth > max_depth:
            raise CheckpointError(f"the pickle nests values deeper than {max_depth} levels. No checkpoint does that.")
        if unfolded > max_unfolded:
            raise CheckpointError(
                "the pickle holds values inside themselves so often that they unfold into more than "
                f"{max_unfolded:,}. It was made to exhaust the memory of whoever reads it."
            )
