"""What kind of file it is, and what its tensors are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from mvae.checkpoint.formats.detect import Format
from mvae.checkpoint.pickled.values import Object, Storage, Tensor
from mvae.checkpoint.pickled.walk import Path, walk
from mvae.checkpoint.report.entries import byte_span
from mvae.checkpoint.report.facts.run import Fact, Run
from mvae.checkpoint.report.finding import candidates, find_weights, other_weights
from mvae.checkpoint.report.names import ANYWHERE, COPIED, LEADING, second_copy, wrappers
from mvae.checkpoint.report.optimizers import is_optimizer_state
from mvae.checkpoint.report.weights import TRAINING_KEYS, Weights
from mvae.text import many


def contents(run: Run) -> Iterator[Fact]:
    """What was saved: a whole training state, the weights alone, or a model object."""
    kind, text = _lightning(run) if run.is_lightning else _kind(run)
    tree, keys = run.file.tree, list(map(str, islice(run.tree, 20)))
    yield Fact("contents", kind, text, {"class": str(tree.cls)} if isinstance(tree, Object) else {"keys": keys})


def _lightning(run: Run) -> tuple[str, str]:
    if not {"optimizer_states", "lr_schedulers", "callbacks"} & run.tree.keys():
        text = "a Lightning checkpoint saved without its training state (`save_weights_only=True`)."
        return "lightning weights-only", text
    if run.optimizers:
        return "lightning", "a Lightning checkpoint."
    return "lightning", "a Lightning checkpoint without the state of an optimizer."


def _kind(run: Run) -> tuple[str, str]:
    tree, weights = run.file.tree, run.sections.weights
    if run.file.format is Format.SAFETENSORS:
        return "weights", "weights and nothing else, as safetensors allows."
    if run.file.format is Format.TORCHSCRIPT:
        return "torchscript", "a TorchScript program: it carries its own code, which `torch.jit.load` runs."
    if isinstance(tree, Object):
        return "object", f"one object, of the class {tree.cls}: loading it needs that class."
    if isinstance(tree, Tensor):
        return "tensor", "one tensor, without a name."
    if is_optimizer_state(tree):
        return "optimizer", "the state of an optimizer, and nothing else."
    if run.optimizers:
        what = "weights, optimizer, and" if weights else "the state of an optimizer, and"
        return "training", f"a training checkpoint: {what} what its author put beside them."
    mixed = weights is None or any(isinstance(value, (dict, list, Object)) for value in weights.others.values())
    if weights and weights.certain and weights.path == () and not mixed:
        return "state_dict", "a plain `state_dict`: weights by name, and nothing about the training."
    if run.tree and all(isinstance(value, Tensor) for value in run.tree.values()):
        return "tensors", "tensors by name; nothing in the file says what they are."
    return "other", "values and tensors in an order of their author's own."


def parameters(run: Run) -> Iterator[Fact]:
    """Number of parameters: the elements of the weights, a shared tensor once, buffers not counted."""
    weights = run.sections.weights
    beside = many_elements(_beside(run))
    if weights is None or not weights.certain:
        yield from _only_tensors(run)
        return
    counted = distinct(_no_buffers(weights))
    count, tensors = sum(tensor.numel for tensor in counted), len(counted)
    if not count:
        return
    quantised = any(tensor.dtype.startswith(("q", "bits")) for tensor in counted)
    text = f"{many(count, 'element' if quantised else 'parameter')} in {many(tensors, 'tensor')}"
    if quantised:
        text += " of quantised weights"
    elif not weights.exact and not _confirmed(run, tensors):
        text += ", unless buffers are among them: a `state_dict` does not say"
    if beside:
        text += f"; beside them {beside} that no `state_dict` would hold"
    source = {"tensors of the weights": tensors, "elements in them": count}
    yield Fact("parameters", count, text + ".", source)


def _only_tensors(run: Run) -> Iterator[Fact]:
    tensors = distinct(entry.tensor for entry in run.tensors if _is_own(run, entry.path))
    if not tensors:
        return
    them = "it is a weight" if len(tensors) == 1 else "they are weights"
    text = f"{many_elements(tensors)}; nothing says that {them}"
    keys = [] if run.sections.weights else candidates(run.file.tree)
    if keys:
        text = f"{many_elements(tensors)}, under no usual key: to `mvae export`, say {' or '.join(keys)}"
    count = sum(tensor.numel for tensor in tensors)
    yield Fact("tensors", count, text + ".", {"tensors": len(tensors), "elements in them": count})


def _is_own(run: Run, path: Path) -> bool:
    """True for a tensor that does not only serve the training."""
    return not run.sections.in_optimizer(path) and not (run.tree and path and path[0] in TRAINING_KEYS)


def _beside(run: Run) -> list[Tensor]:
    """Tensors of a module that are neither parameters nor buffers of it."""
    weights = run.sections.weights
    if weights is None or not weights.exact:
        return []
    inside = [entry for entry in run.tensors if entry.path[: len(weights.path)] == weights.path]
    known = set(map(_identity, weights.tensors.values()))  # an LSTM keeps a list of its own parameters
    return [
        tensor
        for tensor in distinct(entry.tensor for entry in inside if run.sections.weight(entry.path) is None)
        if _identity(tensor) not in known
    ]


def many_elements(tensors: list[Tensor]) -> str:
    """`12 elements in 2 tensors`; empty for none."""
    return f"{many(sum(t.numel for t in tensors), 'element')} in {many(len(tensors), 'tensor')}" if tensors else ""


def _no_buffers(weights: Weights) -> list[Tensor]:
    """The tensors of the weights that are no buffers; those in packed values too."""
    found = [tensor for name, tensor in weights.tensors.items() if name not in weights.buffers]
    for value in weights.packed.values():
        tensors: set[Path] = set()
        for path, part in walk(value, plain=False):
            if isinstance(part, Tensor):
                if not any(path[:end] in tensors for end in range(len(path))):  # not the scales of a quantised one
                    found.append(part)
                tensors.add(path)
    return found


def distinct(tensors: Iterable[Tensor]) -> list[Tensor]:
    """Of tensors that are one and the same, the last."""
    return list({_identity(tensor): tensor for tensor in tensors}.values())


def _identity(tensor: Tensor) -> Any:
    return id(tensor.storage or tensor), tensor.offset, tensor.shape


def _confirmed(run: Run, tensors: int) -> bool:
    """True if the optimizers have exactly as many parameters as there are tensors: then none is a buffer."""
    numbers = [
        len(group["params"])
        for _, state in run.optimizers
        for group in state["param_groups"]
        if isinstance(group, dict) and isinstance(group.get("params"), list)
    ]
    return sum(numbers) == tensors


def precision(run: Run) -> Iterator[Fact]:
    """What the numbers were computed in, as far as it shows: the scaler that fp16 needs, and the weights' types."""
    for key in run.tree:  # `scaler`, `amp_scaler`, `MixedPrecision` …: what it keeps tells a GradScaler
        scale = run.number(key, "scale")
        if scale is not None and run.number(key, "growth_factor") is not None:
            text = f"16-bit mixed precision with a loss scale of {scale:g}."
            yield Fact("precision", "16-mixed", text, {f"{key}.scale": scale})
            return
    weights = run.sections.weights
    kinds = sorted({tensor.dtype for tensor in _no_buffers(weights)}) if weights else []
    if kinds and weights:
        what = "weights" if weights.certain else "tensors"
        text = f"the {what} are {' and '.join(kinds)}"
        if kinds == ["float32"] and weights.certain:
            text += " (mixed precision in training leaves no trace in a file like this)"
        yield Fact("precision", kinds, text + ".", {f"types of the {what}": kinds})


def wrapped(run: Run) -> Iterator[Fact]:
    """Wrappers around the model that left their name in front of every weight."""
    weights = run.sections.weights
    names = [*weights.tensors, *weights.packed] if weights else []
    for part, count in wrappers(names, leading=not run.is_lightning).items():
        wrapper = ANYWHERE.get(part) or LEADING[part]
        example = next(name for name in names if part in name.split("."))
        text = f"{count:,} of {many(len(names), 'name')} of weights have '{part}.' in them, as {wrapper} leaves it."
        yield Fact(f"wrapped_{part.strip('_')}", wrapper, text, {"for example": example})


def copies(run: Run) -> Iterator[Fact]:
    """A second copy of the weights, one of the two commonest reasons for a file that is larger than expected."""
    weights = run.sections.weights
    if weights is None:
        return
    found = second_copy(weights.tensors)
    if found is not None:
        total = sum(tensor.nbytes for tensor in weights.tensors.values())
        share = "half" if 2 * found.nbytes == total else f"{found.nbytes / total:.0%}"
        text = f"{share} of the weights are a second copy (`{found.prefix}.`)"
        text += f": `mvae export --key {found.prefix}` takes one."
        source = {f"tensors under {found.prefix}.": found.tensors, "with the names and shapes of": found.of or "others"}
        yield Fact("second_copy", found.prefix, text, source)
    for key in other_weights(run.file, weights):
        other = find_weights(run.file, key).tensors
        takes = f"`mvae export --key {key}` takes them."
        if set(map(_identity, other.values())) <= set(map(_identity, weights.tensors.values())):
            what, takes = "the same tensors as the weights", "they take no room of their own."
        elif COPIED.search(key) and _shapes(other) == _shapes(weights.tensors):
            what = "a second copy of the weights"
        else:
            what = f"weights too ({many_elements(distinct(other.values()))})"
        text = f"`{key}` holds {what}: {takes}"
        yield Fact(f"other_weights.{key}", key, text, {"key": key, "tensors in it": len(other)})


def _shapes(tensors: dict[str, Tensor]) -> list[tuple[int, ...]]:
    return sorted(tensor.shape for tensor in tensors.values())


def oversized(run: Run) -> Iterator[Fact]:
    """Storages of which the tensors show only a part: `torch.save` writes the whole storage behind a view."""
    spans: dict[Storage, tuple[str, list[tuple[int, int]]]] = {}
    for entry in run.tensors:
        storage = entry.tensor.storage
        if storage is not None and storage.record is not None:
            spans.setdefault(storage, (entry.name, []))[1].append(byte_span(entry.tensor))
    parts = [(name, storage, shown) for storage, (name, shown) in spans.items() if (0, storage.nbytes) not in shown]
    wasted = {name: count for name, storage, shown in parts if (count := storage.nbytes - _covered(shown)) > 0}
    total = sum(wasted.values())
    if total > 4096 and not any(isinstance(part, Storage) for _, part in walk(run.file.tree, plain=False)):
        text = f"{total:,} bytes were saved that no tensor shows: a view was saved with all of what it is a view of."
        yield Fact("unused_bytes", total, text, dict(sorted(wasted.items(), key=lambda item: -item[1])[:5]))


def _covered(spans: list[tuple[int, int]]) -> int:
    """Bytes that are in at least one of the spans."""
    covered = position = 0
    for start, end in sorted(spans):
        covered += max(0, end - max(start, position))
        position = max(position, end)
    return covered
