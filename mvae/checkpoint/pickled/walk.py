"""Going through what was read, without recursion: a file may nest deeper than Python's own stack, or hold itself."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

from mvae.checkpoint.pickled.values import Blob, Global, NumpyArray, Object, ObjectDict, Storage, Tensor
from mvae.errors import CheckpointError

_PLAIN = {str, int, float, bool, type(None), bytes, bytearray, complex, Global, Blob}

Path = tuple[Any, ...]
"""The keys and positions that lead to a value: `("optimizer_states", 0, "state", 3, "exp_avg")`."""


def is_leaf(value: Any) -> bool:
    """True for a value with nothing inside it."""
    kind = type(value)
    if kind is Tensor:
        return value.attributes is None and value.parts is None
    return kind in _PLAIN or kind is Storage


def children(value: Any) -> Iterator[tuple[Any, Any]]:
    """What is directly inside a container or a placeholder, each with the step that leads to it.

    The steps are the keys of a dict and the positions of a list. What a placeholder holds besides is named after where
    it was: its attributes directly, arguments as `<args>`, and so on.
    """
    if isinstance(value, ObjectDict):
        return chain(value.items(), _named(args=value.args, attributes=value.state))
    if isinstance(value, dict):
        return iter(value.items())
    if isinstance(value, (list, tuple, set, frozenset)):
        return enumerate(value)
    if isinstance(value, Object):
        return _inside_object(value)
    if isinstance(value, Tensor):
        return chain((value.parts or {}).items(), _named(attributes=value.attributes))
    if isinstance(value, NumpyArray) and isinstance(value.data, list):
        return enumerate(value.data)
    return iter(())


def _named(**parts: Any) -> list[tuple[str, Any]]:
    return [(f"<{name}>", part) for name, part in parts.items() if part]


def _inside_object(value: Object) -> Iterator[tuple[Any, Any]]:
    state, has_attributes = value.state, isinstance(value.state, dict)
    return chain(
        (value.entries or {}).items(),
        enumerate(value.items or ()),
        state.items() if has_attributes else [] if state is None else [("<state>", state)],
        [] if isinstance(value.cls, Global) else [("<class>", value.cls)],
        _named(args=value.args, kwargs=value.kwargs),
    )


def walk(root: Any, *, plain: bool = True) -> Iterator[tuple[Path, Any]]:
    """Every value with the path that leads to it, parents before what is inside them, in the order of the file.

    A container met a second time is given again, under its second path, and not entered again; so this ends even if
    the tree holds itself.

    Args:
        root: where to start; its path is `()`.
        plain: with False, numbers, strings and the like are passed over, which is faster.
    """
    skipped: set[type] = set() if plain else _PLAIN
    entered: set[int] = set()
    yield (), root
    stack: list[tuple[Path, Any, Any]] = []  # (path of the container, step, value): a million may wait under one path

    def enter(path: Path, value: Any) -> None:
        if not is_leaf(value) and id(value) not in entered:
            entered.add(id(value))
            inside = [(path, step, part) for step, part in children(value) if type(part) not in skipped]
            inside.reverse()
            stack.extend(inside)

    enter((), root)
    while stack:
        container, step, value = stack.pop()
        path = (*container, step)
        yield path, value
        enter(path, value)


def check_shape(root: Any, max_depth: int, max_unfolded: int) -> None:
    """Refuse a value that nobody could go through: too deep, or unfolding into too much because its parts are shared.

    Every container is visited once, what is inside it first, so that its depth and unfolded size follow from theirs. A
    cycle is allowed, as in Python; the way back counts as one value.

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
            inside = [part for _, part in children(value) if not is_leaf(part)]
            if isinstance(value, dict):
                inside += [key for key in value if type(key) not in _PLAIN and not is_leaf(key)]
            stack.append((value, inside))
            stack += [(part, None) for part in inside]
            continue
        sizes = [measured.get(id(part), (0, 1)) for part in inside]
        depth = 1 + max((depth for depth, _ in sizes), default=0)
        unfolded = 1 + count(value) + sum(size for _, size in sizes)
        measured[id(value)] = (depth, unfolded)
        if depth > max_depth:
            raise CheckpointError(f"the pickle nests values deeper than {max_depth} levels. No checkpoint does that.")
        if unfolded > max_unfolded:
            raise CheckpointError(
                f"the pickle holds values inside themselves so often that they unfold into more than {max_unfolded:,}. "
                "It was made to exhaust the memory of whoever reads it."
            )


def count(value: Any) -> int:
    """Values directly inside another."""
    if type(value) in (dict, list, tuple, set, frozenset):
        return len(value)
    return 0 if is_leaf(value) else sum(1 for _ in children(value))
