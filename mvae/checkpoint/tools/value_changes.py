"""Which plain values differ between two trees. Tensors are left to `mvae.checkpoint.tools.comparing`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from mvae.checkpoint.pickled.plain import class_of, hashable
from mvae.checkpoint.pickled.values import Blob, Global, NumpyArray, NumpyDtype, NumpyScalar, Object, Storage, Tensor
from mvae.checkpoint.pickled.walk import Path, children, count, is_leaf, walk
from mvae.errors import CheckpointError
from mvae.text import dotted, jsonable, printable

MAX_ENTRIES = 20
"""A dict of plain values in which more entries than this differ is given as one change. A list always is."""

_LONG = 60
_PARTS_OF_A_KEY = 100
_MAX_PAIRS = 5_000_000


class _Absent:
    """Stands where one of the files has nothing."""

    def __repr__(self) -> str:
        return "–"


ABSENT = _Absent()


@dataclass(frozen=True)
class ValueChange:
    """A value that is not the same in both files.

    Attributes:
        path: the keys and positions that lead to it.
        before, after: in the first file and the second; `ABSENT` where there is none.
    """

    path: Path
    before: Any
    after: Any

    @property
    def name(self) -> str:
        """The path with dots."""
        return ".".join(map(str, self.path)) or "(the whole file)"

    def to_dict(self) -> dict[str, Any]:
        """name, change (`added`, `removed`, `changed`), before and after, as JSON takes them."""
        kind = "added" if self.before is ABSENT else "removed" if self.after is ABSENT else "changed"
        found = {"name": self.name, "change": kind, "before": self.before, "after": self.after}
        return {key: jsonable(value) for key, value in found.items() if value is not ABSENT}

    def __str__(self) -> str:
        name = printable(self.name, 200)
        if self.before is ABSENT:
            return f"+ {name}  {brief(self.after)}"
        if self.after is ABSENT:
            return f"- {name}  {brief(self.before)}"
        if _folds(self.before, self.after) and max(len(self.before), len(self.after)) > 8:
            x, y, differ = self.before, self.after, sum(1 for _ in _differing(self.before, self.after))
            return f"~ {name}  {type(x).__name__}: {len(x):,} → {len(y):,} entries, {differ:,} of them differ"
        return f"~ {name}  {brief(self.before)} → {brief(self.after)}"


def brief(value: Any) -> str:
    """A value in a few letters."""
    if isinstance(value, (dict, list, tuple, set, frozenset)) and len(value) > 8:
        return f"{type(value).__name__} of {len(value):,}"
    return printable(str(jsonable(value, 2)), _LONG)


def value_changes(a: Any, b: Any) -> list[ValueChange]:
    """What differs: of each container first the plain values, then what is inside its containers.

    Raises:
        CheckpointError: the trees were made to keep whoever compares them busy.
    """
    found: list[ValueChange] = []
    entered: set[tuple[int, int]] = set()
    stack: list[tuple[Path, Any, Any]] = [((), a, b)]
    while stack:
        path, x, y = stack.pop()
        if not _opens(x, y):
            if _differ(x, y):
                found.append(ValueChange(path, x, y))
        elif (id(x), id(y)) not in entered:
            entered.add((id(x), id(y)))
            if len(entered) > _MAX_PAIRS:
                raise CheckpointError("the files hold values inside themselves so often that comparing would not end.")
            inside = [(step, *pair) for step, *pair in _matched(path, x, y) if pair[0] is not pair[1]]
            deeper = []
            for step, left, right in inside:
                if _opens(left, right):
                    deeper.append(((*path, step), left, right))
                elif _differ(left, right):
                    found.append(ValueChange((*path, step), left, right))
            stack += reversed(deeper)
    return found


def _matched(path: Path, x: Any, y: Any) -> Iterator[tuple[Any, Any, Any]]:
    """What is inside of both, step by step; `ABSENT` where one has nothing."""
    left, right = (dict(_steps(value)) for value in (x, y))
    versions = path[-1:] == ("<attributes>",)
    for step in left | right:
        before, after = left.get(step, ABSENT), right.get(step, ABSENT)
        if versions and step == "_metadata" and isinstance(before, dict) and isinstance(after, dict):
            # the versions of the modules, which torch keeps beside a state_dict: of interest where the names agree
            both = [key for key in before if key in after]
            before, after = {key: before[key] for key in both}, {key: after[key] for key in both}
        yield step, before, after


def _steps(value: Any) -> Iterator[tuple[Any, Any]]:
    """What is inside, by keys that are equal in both files if they say the same; two that differ stay two."""
    taken: Counter[Any] = Counter()
    for step, part in children(value):
        key = step if type(step) in (str, int) else _said(step)
        taken[key] += 1
        yield (key if taken[key] == 1 else f"{key} ({taken[key]})"), part


def _said(key: Any) -> Any:
    """A key by what it says: a placeholder is equal to itself only, and its class alone says too little."""
    plain = hashable(key)
    if not isinstance(key, (Object, tuple, frozenset)) or plain == key:
        return plain
    inside = [(path, part) for path, part in islice(walk(key), _PARTS_OF_A_KEY) if is_leaf(part)]
    return f"{class_of(key)} {', '.join(f'{dotted(path)} {part}' for path, part in inside)}"


def _opens(x: Any, y: Any) -> bool:
    """True if two values are to be compared by what is inside them."""
    return _alike(x, y) and bool(count(x) or count(y)) and not _folds(x, y)


def _differ(x: Any, y: Any) -> bool:
    """Whether two values that are not opened differ."""
    if x is ABSENT or y is ABSENT:
        return _has_values(y if x is ABSENT else x)
    if _folds(x, y):
        return len(x) != len(y) or any(_differing(x, y))
    return not same_leaf(x, y)


def _folds(x: Any, y: Any) -> bool:
    """True for two lists of plain values, and two dicts of many: what differs in them is one change."""
    if isinstance(x, (list, tuple)) and type(x) is type(y):
        return all(map(_is_plain, x)) and all(map(_is_plain, y))
    if not (isinstance(x, dict) and isinstance(y, dict) and max(len(x), len(y)) > MAX_ENTRIES):
        return False
    if not (all(map(_is_plain, x.values())) and all(map(_is_plain, y.values()))):
        return False
    return sum(1 for _ in islice(_differing(x, y), MAX_ENTRIES + 1)) > MAX_ENTRIES


def _has_plain_keys(value: dict[Any, Any]) -> bool:
    return {type(key) for key in value} <= {str, int}


def _is_plain(value: Any) -> bool:
    return is_leaf(value) and not isinstance(value, (Tensor, Storage))


def _differing(x: Any, y: Any) -> Iterator[bool]:
    """True for each entry that is not the same in both."""
    pairs: Iterable[tuple[Any, Any]]
    if isinstance(x, dict):
        x, y = (value if _has_plain_keys(value) else dict(_steps(value)) for value in (x, y))
        pairs = ((value, y.get(key, ABSENT)) for key, value in x.items())
        yield from (True for key in y if key not in x)
    else:
        pairs = zip(x, y, strict=False)
        yield from (True for _ in range(abs(len(x) - len(y))))
    yield from (True for before, after in pairs if before is not after and not same_leaf(before, after))


def same_leaf(x: Any, y: Any) -> bool:
    """Whether two values with nothing inside them are the same; what has something inside is not."""
    if isinstance(x, Tensor) and isinstance(y, Tensor):
        return True  # not for this module to say
    if type(x) is not type(y):
        return isinstance(x, dict) and isinstance(y, dict) and not x and not y  # an OrderedDict and a dict
    if isinstance(x, Blob):
        return bool(x.raw == y.raw)
    if isinstance(x, NumpyArray):
        return (x.dtype, x.shape, x.fortran, _raw(x)) == (y.dtype, y.shape, y.fortran, _raw(y))
    if isinstance(x, Storage):
        return (x.dtype, x.numel) == (y.dtype, y.numel) and x.view() == y.view()
    if isinstance(x, Object):
        return bool(x.cls == y.cls) and not count(x) and not count(y)
    if isinstance(x, (set, frozenset)):
        return Counter(map(_said, x)) == Counter(map(_said, y))
    if is_leaf(x) or isinstance(x, (NumpyScalar, NumpyDtype)):
        return bool(x == y or (x != x and y != y))
    return not count(x) and not count(y)


def _raw(array: NumpyArray) -> Any:
    return array.data.raw if isinstance(array.data, Blob) else array.data


def _alike(x: Any, y: Any) -> bool:
    """Whether two containers are of one kind, so that what is inside can be compared."""
    if isinstance(x, dict) and isinstance(y, dict):
        return True
    if isinstance(x, (set, frozenset)) or type(x) is not type(y):
        return False
    if isinstance(x, NumpyArray):
        return isinstance(x.data, list) and isinstance(y.data, list)
    if isinstance(x, Object) and (isinstance(x.cls, Global) or isinstance(y.cls, Global)):
        return bool(x.cls == y.cls)
    return True


def _has_values(value: Any) -> bool:
    """False if there are only tensors in it, which are listed elsewhere."""
    return any(
        not isinstance(part, (Tensor, Storage)) and not count(part) and "_metadata" not in path
        for path, part in walk(value)
    )
