"""Names of tensors that differ in a prefix alone: `encoder.weight` and `module.encoder.weight`.

`torch.compile` puts `_orig_mod.` in front of every name, DataParallel `module.`, Lightning `state_dict.` and whatever
the network is called in the LightningModule.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from itertools import islice, takewhile

_ROUNDS = 8
_TRIALS = 20
_PARTS = 4


def pair_by_prefix(left: list[str], right: list[str]) -> Iterator[tuple[str, str, list[tuple[str, str]]]]:
    """(prefix on the left, prefix on the right, the pairs of names), the commonest first; none twice."""
    remaining_left, remaining_right = list(left), dict.fromkeys(right)  # in order, so that each run finds the same
    for _ in range(_ROUNDS):
        best = _commonest(remaining_left, remaining_right)
        if best is None:
            return
        prefix_a, prefix_b = best
        pairs = [
            (name, prefix_b + name.removeprefix(prefix_a))
            for name in remaining_left
            if name.startswith(prefix_a) and prefix_b + name.removeprefix(prefix_a) in remaining_right
        ]
        yield prefix_a, prefix_b, pairs
        gone = {a for a, _ in pairs}
        remaining_left = [name for name in remaining_left if name not in gone]
        for _, b in pairs:
            del remaining_right[b]


def _commonest(left: list[str], right: Collection[str]) -> tuple[str, str] | None:
    """The change of prefix that turns most names of the left into names of the right; None if none turns two."""
    by_end: dict[str, list[str]] = {}
    for name in right:
        for end in _ends(name):
            by_end.setdefault(end, []).append(name)
    trials: Counter[tuple[str, str]] = Counter()
    likely = ((name, next((by_end[end] for end in _ends(name) if end in by_end), [])) for name in left)
    for name, others in islice(((name, others) for name, others in likely if others), _TRIALS):
        for other in others[:_TRIALS]:
            common = _common_end(name, other)
            trials[name.removesuffix(common), other.removesuffix(common)] += 1
    best, most = None, 0
    for (a, b), _ in trials.most_common(_TRIALS):
        count = sum(name.startswith(a) and b + name.removeprefix(a) in right for name in left)
        if count > most:
            best, most = (a, b), count
    return best if most >= min(2, len(left), len(right)) else None


def _ends(name: str) -> list[str]:
    """The last parts of a name, as much of it as can be first: `a.b.c`, `b.c`, `c`."""
    parts = name.split(".")[-_PARTS:]
    return [".".join(parts[start:]) for start in range(len(parts))]


def _common_end(a: str, b: str) -> str:
    """The longest common end of two names that begins after a dot, or is the whole of one of them."""
    alike = takewhile(
        lambda pair: pair[0] == pair[1], zip(reversed(a.split(".")), reversed(b.split(".")), strict=False)
    )
    return ".".join(reversed([part for part, _ in alike]))
