"""The names of weights: what wrappers put in front of them, and which are a second copy of others.

`torch.compile`, DistributedDataParallel, FSDP and Lightning's strategies each put the model inside a module of their
own, whose attribute's name then stands in every weight's name, in any nest: `module._orig_mod.encoder.weight`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from mvae.checkpoint.pickled.values import Tensor
from mvae.errors import CheckpointError

ANYWHERE = {"_orig_mod": "torch.compile", "_fsdp_wrapped_module": "FSDP"}
"""Part of a name → what puts it there, in front of the whole model or of a layer. No one calls an attribute so."""

LEADING = {"module": "DistributedDataParallel or DataParallel", "_forward_module": "a Lightning strategy"}
"""The same, where only the beginning of every name says so: further inside, the model itself may have such a name."""

_MAX_NEST = 16
"""Wrappers around each other, of which nobody has more than four; a name may be made of a million."""

COPIED = re.compile(r"(^|_)(ema|averaged?|avg|swa|shadow|teacher|target|copy)(_|$)", re.IGNORECASE)


def wrappers(names: Iterable[str], leading: bool = True) -> dict[str, int]:
    """Part of the names that a wrapper left → how many names it is in.

    Args:
        names: of the weights.
        leading: False if the beginning of a name is the model's own, as in a Lightning checkpoint `module.` is.
    """
    names = list(names)
    found = {part: sum(part in name.split(".") for name in names if part in name) for part in ANYWHERE}
    found = {part: count for part, count in found.items() if count}
    outer = _nest(map(_without, names) if found else names, leading)
    return found | dict.fromkeys(outer, len(names))


def renaming(names: Sequence[str], strip: Sequence[str] = (), leading: bool = True) -> Callable[[str], str]:
    """What makes of a name the one that the model itself has for it, also without the prefixes in `strip`.

    Args:
        names: of all the weights: what they have in common says which wrappers there were.
        strip: prefixes to take off the names that start with them.
        leading: as for `wrappers`.

    Raises:
        CheckpointError: no name has the prefix.
    """
    prefixes = [f"{part}." for part in _nest(map(_without, names), leading)]

    def rename(name: str) -> str:
        name = _without(name)
        for prefix in prefixes:
            name = name.removeprefix(prefix)
        return name

    for prefix in strip:
        shorter = list(map(rename, names))
        if not any(name.startswith(prefix) for name in shorter) and prefix not in prefixes:
            first = (*shorter, "nothing")[0]
            raise CheckpointError(f"no tensor's name starts with '{prefix}'; the first is '{first}'.")
        prefixes.append(prefix)
    return rename


def own_names(names: Sequence[str], strip: Sequence[str] = (), leading: bool = True) -> dict[str, str]:
    """Old name → the name that the model itself has for it; see `renaming`.

    Raises:
        CheckpointError: no name has the prefix, or two names become one.
    """
    rename = renaming(names, strip, leading)
    taken: dict[str, str] = {}
    for old in names:
        name = rename(old)
        if not name or name in taken:
            raise CheckpointError(f"without its prefix '{old}' would be called '{name}', which is taken or empty.")
        taken[name] = old
    return {old: name for name, old in taken.items()}


def _without(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in ANYWHERE)


def _nest(names: Iterable[str], leading: bool) -> list[str]:
    """The wrappers with which every name begins, the outermost first; none of `ANYWHERE` may be in a name."""
    found: list[str] = []
    shorter = list(names)
    while len(found) < _MAX_NEST and (part := _shared_beginning(shorter, leading)) is not None:
        found.append(part)
        shorter = [name.removeprefix(part + ".") for name in shorter]
    return found


def _shared_beginning(names: Iterable[str], leading: bool) -> str | None:
    """The wrapper's name with which every name begins."""
    first = {name.partition(".")[0] for name in names if "." in name or name}
    part = first.pop() if len(first) == 1 else ""
    known = part in LEADING and (leading or part != "module") and all("." in name for name in names)
    return part if known else None


@dataclass(frozen=True)
class Copy:
    """Weights that have the names and the shapes of others, under a name that speaks of an average or a copy.

    Attributes:
        prefix: in front of their names, such as `model_ema`.
        of: the prefix of the others; empty if they have none.
        tensors: how many they are.
        nbytes: bytes of them.
    """

    prefix: str
    of: str
    tensors: int
    nbytes: int


def second_copy(weights: Mapping[str, Tensor]) -> Copy | None:
    """The averaged copy of the model that is among its weights, as trainers keep one; None if there is none."""
    if not any(map(COPIED.search, {name.partition(".")[0] for name in weights})):
        return None
    groups: dict[str, dict[str, Tensor]] = {"": {}}
    for name, tensor in weights.items():
        first, _, rest = name.partition(".")
        if tensor.numel > 1:  # a copy may count its updates, and leave out what counts the batches
            groups.setdefault(first, {})[rest or name] = tensor
            groups[""][name] = tensor
    shapes = {prefix: _shapes(group) for prefix, group in groups.items()}
    for prefix in filter(COPIED.search, groups):
        for other, theirs in shapes.items():
            if other != prefix and len(shapes[prefix]) > 1 and shapes[prefix].items() <= theirs.items():
                copied = groups[prefix].values()
                return Copy(prefix, other, len(copied), sum(tensor.nbytes for tensor in copied))
    return None


def _shapes(group: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Shapes by name, without wrappers and dots: some programs take the dots out of a copy's names."""
    try:
        names = own_names(list(group))
    except CheckpointError:
        names = {name: name for name in group}
    return {name.replace(".", ""): group[old].shape for old, name in names.items()}
