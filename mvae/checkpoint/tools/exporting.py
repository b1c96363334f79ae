"""The weights alone: a third of a checkpoint that was trained with Adam, and all that is needed to use the model.

Written as safetensors, which holds no code and which other programs read, or as a checkpoint that Lightning's
`load_from_checkpoint` takes. Hyperparameters, the vocabulary and other plain values go with the weights; what is
needed to go on training does not.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from mvae.checkpoint.files.source import Input
from mvae.checkpoint.formats.detect import Format
from mvae.checkpoint.formats.safetensors import write_safetensors
from mvae.checkpoint.formats.stream import Progress, Stream, blocks
from mvae.checkpoint.formats.zip_writer import Output, output, refuse_to_overwrite, write_checkpoint
from mvae.checkpoint.inspection import CheckpointFile, inspect
from mvae.checkpoint.pickled.plain import Plain, Replaced, to_json
from mvae.checkpoint.pickled.values import Global, Object, ObjectDict, Storage, Tensor, contiguous
from mvae.checkpoint.pickled.walk import walk
from mvae.checkpoint.pickled.writer import Pickler, Stored
from mvae.checkpoint.report.finding import find_weights, other_weights
from mvae.checkpoint.report.names import own_names, renaming
from mvae.checkpoint.report.optimizers import is_optimizer_state
from mvae.checkpoint.report.weights import SETTINGS_KEYS, TRAINING_KEYS, Weights, holds_tensors
from mvae.checkpoint.tools.plain_values import name_of
from mvae.errors import CheckpointError
from mvae.text import Result, dotted, many, printable, size

FORMATS = {".safetensors": "safetensors", ".ckpt": "ckpt"}
"""Ending of the file to write → its format."""


@dataclass
class Export(Result):
    """What was written.

    Attributes:
        path: of the checkpoint.
        out: of the new file.
        format: `safetensors` or `ckpt`.
        size_before, size: bytes of the checkpoint and of the new file.
        tensors: names in the new file.
        packed: how many of them are values that hold tensors, such as the packed parameters of a quantised layer.
        renamed: old name → new name, where they differ.
        shared: name → the name of the tensor on the same bytes, which alone was written.
        left_out: what is not in the new file: top-level keys, and names of what stands among the weights.
        replaced: values that were foreign objects.
    """

    path: str
    out: str
    format: str
    size_before: int
    size: int = 0
    tensors: list[str] = field(default_factory=list)
    packed: int = 0
    renamed: dict[str, str] = field(default_factory=dict)
    shared: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    replaced: list[Replaced] = field(default_factory=list)

    def __str__(self) -> str:
        count = len(self.tensors) - self.packed
        what = many(count, "tensor") + (f" and {many(self.packed, 'packed value')}" if self.packed else "")
        lines = [f"{printable(self.out)}: {what}, {size(self.size_before)} → {size(self.size)}"]
        if self.left_out:
            lines.append(f"  left out: {printable(', '.join(self.left_out), 300)}")
        if self.renamed:
            old, new = next(iter(self.renamed.items()))
            lines.append(f"  {many(len(self.renamed), 'name')} changed, such as {printable(old)} to {printable(new)}")
        lines += [f"  {printable(name)} is {printable(kept)}: written once" for name, kept in self.shared.items()]
        return "\n".join([*lines, *(f"  {replaced}" for replaced in self.replaced)])


def export(
    path: Input,
    out: Output,
    *,
    format: str | None = None,
    key: str | None = None,
    strip_prefix: Sequence[str] = (),
    copy_shared: bool = False,
    progress: Progress | None = None,
) -> Export:
    """Write the weights of a checkpoint, and the plain values beside them, to a file of their own.

    What `torch.compile`, FSDP, DistributedDataParallel and Lightning's strategies put into the names is taken out.
    Names in safetensors are those of the `state_dict`, and its metadata holds the other values as JSON. Tensors that
    are one and the same (tied weights) are written once: a `.ckpt` keeps the tie; safetensors cannot, so the metadata
    says which name is which, in the way that `safetensors.torch.load_model` expects.

    Args:
        path: the checkpoint: any that `inspect` reads, the folder of a sharded one too.
        out: the file to write, ending in .safetensors or .ckpt unless `format` is given; or a binary stream.
        format: `safetensors` or `ckpt`, if the ending does not say.
        key: where the weights are, with dots, if not under a usual name; or what the names of those that are wanted
            begin with, such as `model_ema`. It says that other weights in the file are to be left out.
        strip_prefix: taken off the names that start with it, such as `model.`.
        copy_shared: write tied weights to safetensors as often as they have names.
        progress: told how many bytes were read.

    Raises:
        CheckpointError: no weights; more of them than one file takes, and no `key` that chooses; one that the format
            cannot hold or that is damaged; `out` is the checkpoint itself or cannot be written.
    """
    name = name_of(out)
    format = _known_format(name, format)
    refuse_to_overwrite(path, out)
    file = inspect(path)
    found = Export(file.path, name, format, file.size)
    chosen = _choose(file, key, format)
    _rename(found, chosen, strip_prefix, is_lightning=bool(file.keys) and "pytorch-lightning_version" in file.tree)
    kept = _kept_values(found, file.tree, chosen)
    if file.format is Format.SAFETENSORS and format == "ckpt":
        kept = _from_metadata(file.contents.metadata, chosen.tensors)
    with output(out) as target, Stream(progress) as stream:
        if format == "ckpt":
            _write_ckpt(found, target, stream, file.tree, chosen, kept)
        else:
            found.shared = {} if copy_shared else _shared(chosen.tensors)
            metadata = _metadata(found, file.contents.metadata, kept)
            alone = {name: tensor for name, tensor in chosen.tensors.items() if name not in found.shared}
            found.size = write_safetensors(target, alone, metadata, stream)
            found.tensors = list(alone)
    return found


def _known_format(name: str, given: str | None) -> str:
    format = given or FORMATS.get(os.path.splitext(name)[1].lower(), "")
    if format in FORMATS.values():
        return format
    raise CheckpointError(
        f"{name}: the file to write must end in {' or '.join(FORMATS)}; for another ending say --format."
    )


def _choose(file: CheckpointFile, key: str | None, format: str) -> Weights:
    """The weights to write.

    Raises:
        CheckpointError: there are none; or some would be left behind that nobody said to leave.
    """
    chosen = find_weights(file.contents, key)
    others = other_weights(file.contents, chosen) if key is None else []
    if others:
        keys = " or ".join(f"--key {other}" for other in (".".join(map(str, chosen.path)), *others))
        raise CheckpointError(f"{file.path} holds more than one set of weights. Choose one: {keys}.")
    if chosen.packed and format == "safetensors":
        names = ", ".join(chosen.packed)
        raise CheckpointError(
            f"safetensors holds tensors alone, and these are more than that: {names[:300]}. They are the packed "
            "parameters of quantised layers, or lists of tensors: a .ckpt keeps them."
        )
    return chosen


def _rename(found: Export, chosen: Weights, strip: Sequence[str], is_lightning: bool) -> None:
    """Give each of the weights, and each module, the name that the model itself has for it."""
    names = [*chosen.tensors, *chosen.packed]
    own = own_names(names, strip, leading=not is_lightning)
    found.renamed = {old: new for old, new in own.items() if old != new}
    chosen.tensors = {own[old]: tensor for old, tensor in chosen.tensors.items()}
    chosen.packed = {own[old]: value for old, value in chosen.packed.items()}
    shorter = renaming(names, strip, leading=not is_lightning)
    chosen.others = {shorter(old): value for old, value in chosen.others.items()}
    if chosen.metadata is not None:
        ends = {shorter(f"{module}.*"): version for module, version in chosen.metadata.items()}
        chosen.metadata = {name.removesuffix("*").removesuffix("."): version for name, version in ends.items()}


def _kept_values(found: Export, tree: Any, chosen: Weights) -> dict[Any, Any]:
    """The values beside the weights that go with them; what does not is noted."""
    where, kept = chosen.path, {}
    if chosen.belong and found.format == "safetensors":
        found.left_out = [dotted((*where, name)) for name in chosen.others]
    found.left_out += [dotted((*where, name)) for name in chosen.not_asked_for]
    if isinstance(tree, Object):
        found.left_out += [str(key) for key in tree.attributes if where and key != where[0]]
    taken = where[:1] or {place[0] for place in chosen.places} | (chosen.others.keys() if chosen.belong else set())
    for key, value in tree.items() if isinstance(tree, dict) else ():
        if key in taken:
            continue  # the weights themselves
        if key in SETTINGS_KEYS[:2] or (key not in TRAINING_KEYS and not _serves_training(value)):
            kept[key] = value
        else:
            found.left_out.append(str(key))
    return kept


def _from_metadata(metadata: dict[str, str], weights: dict[str, Tensor]) -> dict[Any, Any]:
    """The values that a safetensors file carries, and the tied weights it names: an export taken back."""
    kept: dict[Any, Any] = {}
    for key, text in metadata.items():
        if text in weights and key not in weights:
            weights[key] = weights[text]
        elif key != "format":
            try:
                kept[key] = json.loads(text)
            except (ValueError, RecursionError):
                kept[key] = text
    return kept


def _serves_training(value: Any) -> bool:
    """True for the state of an optimizer, and for all else that is not plain values."""
    return holds_tensors(value) or any(is_optimizer_state(part) for _, part in walk(value, plain=False))


# --- .ckpt


def _write_ckpt(
    found: Export, file: BinaryIO, stream: Stream, tree: Any, chosen: Weights, kept: dict[Any, Any]
) -> None:
    copies: dict[int, Tensor] = {}
    compact = ObjectDict(Global("collections", "OrderedDict"))
    compact.update(_compacted(chosen.tensors, copies) | chosen.packed)
    compact.state = {"_metadata": chosen.metadata} if chosen.metadata is not None else None
    if chosen.belong:
        compact.update(chosen.others)
    if not chosen.path and not kept:
        content: dict[Any, Any] = compact
    else:
        name = chosen.path[0] if len(chosen.path) == 1 else "state_dict"
        order = tree if isinstance(tree, dict) and name in tree else {name: None, **kept}
        content = {key: compact if key == name else kept[key] for key in order if key == name or key in kept}

    def bytes_of(stored: Stored) -> Iterator[memoryview]:
        tensor = copies.get(id(stored.storage))
        return stream.storage(stored.storage, stored.dtype) if tensor is None else blocks(stream, tensor)

    pickler = Pickler()
    found.size = write_checkpoint(file, content, bytes_of, pickler)
    found.replaced = pickler.replaced
    found.tensors, found.packed = [*chosen.tensors, *chosen.packed], len(chosen.packed)


def _compacted(weights: dict[str, Tensor], copies: dict[int, Tensor]) -> dict[Any, Any]:
    """The weights, those that are a small part of a storage on a storage of their own, noted in `copies`.

    Tensors on the same part of a storage still share it.
    """
    views: dict[int, dict[Any, Tensor]] = {}
    for tensor in weights.values():
        views.setdefault(id(tensor.storage), {}).setdefault(_view(tensor), tensor)
    own: dict[Any, Tensor] = {}
    for tensors in views.values():
        used = sum(tensor.nbytes for tensor in tensors.values())
        for view, tensor in tensors.items():
            storage = tensor.storage
            if tensor.kind == "sharded" or (storage is not None and used < storage.nbytes and not tensor.parts):
                own[view] = _on_its_own(tensor, copies)
    return {name: own.get(_view(tensor), tensor) for name, tensor in weights.items()}


def _view(tensor: Tensor) -> Any:
    """Equal for tensors that are one and the same."""
    if tensor.storage is None:
        return id(tensor)
    return id(tensor.storage), tensor.offset, tensor.shape, tensor.stride, tensor.dtype


def _on_its_own(tensor: Tensor, copies: dict[int, Tensor]) -> Tensor:
    storage = Storage("", tensor.dtype, tensor.numel, "cpu")
    copies[id(storage)] = tensor
    kind = "Tensor" if tensor.kind == "sharded" else tensor.kind
    again = Tensor(tensor.dtype, tensor.shape, contiguous(tensor.shape), 0, storage, tensor.requires_grad, kind)
    again.attributes = tensor.attributes
    return again


# --- safetensors


def _shared(tensors: dict[str, Tensor]) -> dict[str, str]:
    """Name → the first name of the same tensor, for those that have several."""
    first: dict[Any, str] = {}
    kept = {name: first.setdefault(_view(tensor), name) for name, tensor in tensors.items()}
    return {name: other for name, other in kept.items() if name != other}


def _metadata(found: Export, before: dict[str, str], kept: dict[Any, Any]) -> dict[str, str]:
    """The values beside the weights as text; what JSON cannot say is noted as left out or replaced."""
    metadata = {"format": "pt"} | before
    for key, value in kept.items():
        try:
            metadata[str(key)] = to_json(value)
            found.replaced += Plain().go_through({key: value})  # to be said: JSON has no word for a class either
            found.left_out += [dotted((key, *path)) for path, part in walk(value) if isinstance(part, Tensor)]
        except CheckpointError:
            found.left_out.append(str(key))
    for name, first in found.shared.items():
        metadata.setdefault(name, first)
    return metadata
