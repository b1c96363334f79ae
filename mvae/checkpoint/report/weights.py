"""Where in a checkpoint the weights are, and under which names: the one place that decides.

The byte budget, the facts and `export` all ask here, so what one of them counts as weights, the others do too.

A file seldom says "these are weights". What does: the format (safetensors, TorchScript), the structure of an
`nn.Module`, the `_metadata` that torch leaves on a `state_dict`, a usual key such as `state_dict`, names such as
`encoder.weight`. Where nothing says so, a tensor is a tensor.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from mvae.checkpoint.formats.contents import Contents
from mvae.checkpoint.formats.detect import Format
from mvae.checkpoint.pickled.values import Object, ObjectDict, Storage, Tensor
from mvae.checkpoint.pickled.walk import Path, walk
from mvae.checkpoint.report.modules import is_module, module_tensors, script_tensors
from mvae.checkpoint.report.optimizers import is_optimizer_state
from mvae.errors import CheckpointError
from mvae.text import dotted

WEIGHTS_KEYS = (
    "state_dict", "model_state_dict", "model_state", "model_dict", "model", "module", "net", "net_state_dict",
    "network", "network_state_dict", "weights", "params",
)  # fmt: skip
"""Top-level keys under which projects put the weights; `state_dict` is Lightning's."""

TRAINING_KEYS = frozenset([
    "optimizer_states", "lr_schedulers", "callbacks", "loops", "optimizer", "optimizers", "optimizer_state_dict",
    "lr_scheduler", "scheduler", "schedulers", "scheduler_state_dict", "lr_scheduler_state_dict", "scaler", "amp",
    "grad_scaler", "MixedPrecision", "MixedPrecisionPlugin", "rng_state", "rng_states", "random_state",
])  # fmt: skip
"""Top-level keys that only serve to go on training."""

SETTINGS_KEYS = ("hyper_parameters", "datamodule_hyper_parameters", "hparams", "args", "config")
"""Top-level keys of settings, where a `weight` is that of a class or an example."""

_BUFFERS = (
    "running_mean", "running_var", "num_batches_tracked", "n_averaged", "position_ids", "token_type_ids",
    "relative_position_index", "inv_freq",
)  # fmt: skip
"""Last parts of the names of buffers, in PyTorch and in the commonest transformers."""
_TELLING = re.compile(r"(weight|bias)(_\w+)?|running_mean|running_var|num_batches_tracked")
"""Last parts of names that weights have: `weight`, `bias_ih_l0` …"""

_RANDOM = re.compile(r"rng|random|seed|generator", re.IGNORECASE)


@dataclass
class Weights:
    """The weights of a checkpoint.

    Attributes:
        path: of what holds them; `()` for the whole file.
        tensors: by the name that each has in a `state_dict`, buffers too.
        places: the path of each in the tree → its name.
        buffers: names of those that are no parameters.
        packed: name → a value that holds tensors and is none, such as the packed parameters of a quantised layer.
        others: name → what stands among them and holds no tensor.
        metadata: the versions of the modules, which torch keeps beside a `state_dict`.
        exact: True if the file says which are parameters and which buffers; else they are told by their names.
        certain: False for a dict of tensors of which nothing says that they are weights.
        not_asked_for: names of weights beside them that a key left out.
    """

    path: Path
    tensors: dict[str, Tensor] = field(default_factory=dict)
    places: dict[Path, str] = field(default_factory=dict)
    buffers: set[str] = field(default_factory=set)
    packed: dict[str, Any] = field(default_factory=dict)
    others: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] | None = None
    exact: bool = False
    certain: bool = True
    not_asked_for: list[str] = field(default_factory=list)

    @property
    def belong(self) -> bool:
        """True if the others are entries of the `state_dict`; False if they are values of the file beside it."""
        return bool(self.path) or self.metadata is not None

    def add(self, name: str, place: Path, value: Any) -> None:
        """Take in one value.

        Raises:
            CheckpointError: the name is taken, so that one of the two would be lost.
        """
        if name in self.tensors or name in self.packed or name in self.others:
            raise CheckpointError(f"two values among the weights would be called '{name}'. Take one part with --key.")
        if isinstance(value, Tensor):
            self.tensors[name] = value
            if not self.exact and is_buffer(name):
                self.buffers.add(name)
        elif holds_tensors(value) and not is_optimizer_state(value):
            self.packed[name] = value
        else:
            self.others[name] = value
            return
        self.places[place] = name


def is_buffer(name: str) -> bool:
    """True for a buffer that can be told by its name."""
    return name.rpartition(".")[2] in _BUFFERS


def weights_of(contents: Contents) -> Weights | None:
    """As `find_weights`, but None if there are none."""
    try:
        return usual(contents)
    except CheckpointError:
        return None


def usual(contents: Contents) -> Weights | None:
    """The weights in the place where files of this kind have them; None if nothing is there."""
    tree = contents.tree
    if is_module(tree) or (contents.format is Format.TORCHSCRIPT and isinstance(tree, Object)):
        return _of_module(contents, (), tree)
    if contents.format is Format.SAFETENSORS or is_state_dict(tree):
        return taken(contents, (), tree)
    inside = tree if isinstance(tree, dict) else tree.attributes if isinstance(tree, Object) else {}
    keys = [key for key in WEIGHTS_KEYS if is_usual(key, inside.get(key))]
    if isinstance(tree, Object):
        keys = [key for key in keys if is_module(inside[key])]
    if not keys:
        keys = [key for key, value in inside.items() if key not in TRAINING_KEYS and is_sure(value)]
        keys = keys if len(keys) == 1 else []  # of several, nobody can say which
    if keys:
        return taken(contents, (keys[0],), inside[keys[0]])
    if isinstance(tree, dict) and _may_be_state_dict(tree):
        found = taken(contents, (), tree)
        found.certain = False
        return found
    return None


def is_usual(key: Any, value: Any) -> bool:
    """True for something with tensors under one of the usual keys."""
    if key not in WEIGHTS_KEYS or is_optimizer_state(value):
        return False
    return is_module(value) or (isinstance(value, dict) and holds_tensors(value))


def is_sure(value: Any) -> bool:
    """True for an `nn.Module`, and for a `state_dict` that torch has marked as one."""
    return is_module(value) or (_metadata(value) is not None and holds_tensors(value))


def _metadata(value: Any) -> dict[str, Any] | None:
    state = value.state if isinstance(value, ObjectDict) else None
    found = state.get("_metadata") if isinstance(state, dict) else None
    return found if isinstance(found, dict) else None


def is_state_dict(tree: Any) -> bool:
    """True if the whole file is a `state_dict`, by torch's mark or by the names in it."""
    if not isinstance(tree, dict) or is_optimizer_state(tree):
        return False
    if _metadata(tree) is not None and holds_tensors(tree):
        return True
    names = (str(name).rpartition(".")[2] for name, value in tree.items() if isinstance(value, Tensor))
    others = (value for value in tree.values() if not isinstance(value, Tensor))
    return any(map(_TELLING.fullmatch, names)) and not any(map(is_sure, others))


def _may_be_state_dict(tree: dict[Any, Any]) -> bool:
    """True for a dict of tensors that are numbers with a fraction: weights, perhaps. Labels and images are whole."""
    tensors = [value for value in tree.values() if isinstance(value, Tensor)]
    if any(isinstance(value, (dict, list, tuple, Object)) for value in tree.values()):
        return False  # a file with other things in it, where a tensor is a loss or a score
    large = [tensor for tensor in tensors if tensor.numel > 1]
    if not large:
        return len(tensors) == len(tree) and any(_has_fractions(tensor) for tensor in tensors)
    return all(map(_has_fractions, large))


def _has_fractions(tensor: Tensor) -> bool:
    return not tensor.dtype.startswith(("int", "uint", "bool"))


def is_random(name: Any, tensor: Tensor) -> bool:
    """True for the state of a random generator: whole bytes, under such a name."""
    return tensor.dtype == "uint8" and _RANDOM.search(str(name)) is not None


def taken(contents: Contents, path: Path, value: Any) -> Weights:
    """All that is inside of one value.

    Raises:
        CheckpointError: there is no tensor in it, or two would have one name.
    """
    if is_module(value):
        return _of_module(contents, path, value)
    found = Weights(path, metadata=_metadata(value))
    if isinstance(value, Tensor):
        found.add(str(path[-1]) if path else "tensor", path, value)
    elif isinstance(value, dict):
        for name, place, part in _flat(path, value):
            found.add(name, place, part)
    if not path and contents.format is not Format.SAFETENSORS and _metadata(value) is None:
        _set_random_states_aside(found)
    if not (found.tensors or found.packed):
        raise CheckpointError(f"there are no tensors under '{dotted(path) or '.'}'.")
    return found


def _set_random_states_aside(found: Weights) -> None:
    for place, name in list(found.places.items()):
        if name in found.tensors and is_random(name, found.tensors[name]):
            del found.places[place]
            found.others[name] = found.tensors.pop(name)


def _of_module(contents: Contents, path: Path, value: Object) -> Weights:
    found = Weights(path, exact=True)
    for name, place, part, is_buffer in module_tensors(value) if is_module(value) else script_tensors(contents, value):
        found.add(name, (*path, *place), part)
        if is_buffer:
            found.buffers.add(name)
    if not found.tensors:
        raise CheckpointError("the module in it has neither parameters nor buffers.")
    return found


def _flat(path: Path, value: dict[Any, Any]) -> Iterator[tuple[str, Path, Any]]:
    """What is in dicts inside dicts, with dots between the keys; modules among them taken apart."""
    stack: list[tuple[str, Path, Any]] = [(str(key), (*path, key), part) for key, part in reversed(value.items())]
    entered = {id(value)}
    while stack:
        name, place, part = stack.pop()
        if isinstance(part, Tensor):
            yield name, place, part
        elif is_module(part):
            yield from ((f"{name}.{inner}", (*place, *steps), t) for inner, steps, t, _ in module_tensors(part))
        elif isinstance(part, dict) and part and id(part) not in entered and not _is_whole(place[-1], part):
            entered.add(id(part))
            stack += [(f"{name}.{key}", (*place, key), inside) for key, inside in reversed(part.items())]
        else:
            yield name, place, part


def _is_whole(key: Any, value: dict[Any, Any]) -> bool:
    """True for a dict that is one entry: what a module saves by `get_extra_state`, and the state of an optimizer."""
    return key == "_extra_state" or str(key).endswith("._extra_state") or is_optimizer_state(value)


def holds_tensors(value: Any) -> bool:
    """True if a tensor is anywhere in it."""
    return any(isinstance(part, (Tensor, Storage)) for _, part in walk(value, plain=False))
