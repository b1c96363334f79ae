"""What a loader's parts hold that changes as batches are drawn: generators of their own, and counters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from mvae.checkpoint.with_torch.generators import HELD, set_state_of, state_of

_PARTS = ("generator", "dataset", "sampler", "batch_sampler", "collate_fn")
_OTHERS = {"torch", "numpy", "scipy", "pandas", "builtins", "lightning", "torchmetrics", "collections", "types"}
_DEEP, _MANY = 4, 32


class HeldState:
    """The generators and numbers that the loaders, data sets, samplers and transforms hold, by their path.

    A number (`self.epoch`, `self.position`) counts as state if it is no longer what it was at first.
    """

    def __init__(self, loaders: list[Any]) -> None:
        self._loaders = loaders
        self._at_first = {path: value for path, _, _, value in self._found() if not isinstance(value, HELD)}

    def now(self) -> dict[str, Any]:
        """What has changed since the first pass, and where every generator stands."""
        states = {}
        for path, _, _, value in self._found():
            if isinstance(value, HELD):
                states[path] = state_of(value)
            elif value != self._at_first.get(path):
                states[path] = value
        return states

    def set(self, states: dict[str, Any]) -> list[str]:
        """Put everything back to where `now` found it. Returns the paths that are not there any more."""
        found = {path: (owner, name, value) for path, owner, name, value in self._found()}
        for path, (owner, name, value) in found.items():
            if isinstance(value, HELD):
                if path in states:
                    set_state_of(value, states[path])
            elif value != (wanted := states.get(path, self._at_first.get(path, value))):
                setattr(owner, name, wanted)
        return [path for path in states if path not in found]

    def _found(self) -> Iterator[tuple[str, Any, Any, Any]]:
        seen: set[int] = set()
        for number, loader in enumerate(self._loaders):
            if not isinstance(loader, DataLoader):
                yield from _search(loader, f"{number}", seen, 0)
                continue
            for part in _PARTS:
                value = getattr(loader, part, None)
                if isinstance(value, HELD):
                    yield f"{number}.{part}", loader, part, value
                else:
                    yield from _search(value, f"{number}.{part}", seen, 0)


def _search(owner: Any, path: str, seen: set[int], depth: int) -> Iterator[tuple[str, Any, Any, Any]]:
    """Everything that may be state below `owner`; libraries' own objects and long lists are not looked into."""
    if id(owner) in seen or depth > _DEEP:
        return
    seen.add(id(owner))
    for name, value in _attributes(owner):
        below = f"{path}.{name}"
        if isinstance(value, HELD):
            if id(value) not in seen:
                seen.add(id(value))
                yield below, owner, name, value
        elif isinstance(value, bool | int | float):
            yield below, owner, name, value
        elif isinstance(value, list | tuple | dict) or type(value).__module__.partition(".")[0] not in _OTHERS:
            yield from _search(value, below, seen, depth + 1)


def _attributes(owner: Any) -> list[tuple[Any, Any]]:
    if isinstance(owner, list | tuple | dict):
        if len(owner) > _MANY:
            return []
        found = list(owner.items()) if isinstance(owner, dict) else list(enumerate(owner))
        # Numbers in a list are data; in it may stand a transform that holds a generator.
        return [(name, value) for name, value in found if not isinstance(value, bool | int | float)]
    return list(getattr(owner, "__dict__", {}).items())
